"""The tables of users and links: a mixin for a model of one's own, and the default tables."""

from sqlalchemy import BigInteger, Column, MetaData, SmallInteger, String, Table, Text
from sqlalchemy.dialects.mysql import TEXT, VARCHAR
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from ..user_fields import ATTRIBUTES

__all__ = ["WeChatUserMixin", "link_table", "user_table"]

_MAX_ID_CHARACTERS = 128
# MySQL's default collations ignore the case, and its utf8 has no emoji.
_ID: TypeEngine[str] = String(_MAX_ID_CHARACTERS).with_variant(
    VARCHAR(_MAX_ID_CHARACTERS, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)
_TEXT: TypeEngine[str] = Text().with_variant(
    TEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)


class WeChatUserMixin:
    """The columns of a user, for a declarative model: `class User(WeChatUserMixin, Base)`.

    The model adds its table's name, its primary key and columns of its own. It may redefine a
    column, such as `created_at` with a DateTime.

    Attributes:
        open_id: the user's id in the app of their first login; NULL in rows of the application
            that belong to a unionId.
        union_id: the user's id in all apps of one Open Platform account.
        gender: 0 unknown, 1 male, 2 female.
        created_at: first login, in Unix milliseconds.
        updated_at: last change, in Unix milliseconds.
    """

    open_id: Mapped[str | None] = mapped_column(_ID, unique=True)
    union_id: Mapped[str | None] = mapped_column(_ID, index=True)
    nick_name: Mapped[str | None] = mapped_column(_TEXT)
    gender: Mapped[int | None] = mapped_column(SmallInteger)
    city: Mapped[str | None] = mapped_column(_TEXT)
    province: Mapped[str | None] = mapped_column(_TEXT)
    country: Mapped[str | None] = mapped_column(_TEXT)
    language: Mapped[str | None] = mapped_column(_TEXT)
    avatar_url: Mapped[str | None] = mapped_column(_TEXT)
    created_at: Mapped[int | None] = mapped_column(BigInteger)
    updated_at: Mapped[int | None] = mapped_column(BigInteger)


def user_table(metadata: MetaData) -> Table:
    """Define the default table of users, mpauthx_user."""
    return Table(
        "mpauthx_user",
        metadata,
        Column("open_id", _ID, primary_key=True),
        Column("union_id", _ID, index=True),
        *(
            Column(name, getattr(WeChatUserMixin, name).column.type)
            for name in ATTRIBUTES.values()
            if name not in ("open_id", "union_id")
        ),
    )


def link_table(metadata: MetaData, *, schema: str | None = None) -> Table:
    """Define the table mpauthx_link, which keeps all ids of each user, for migrations by Alembic.

    Args:
        metadata: the application's, such as `Base.metadata`.
        schema: that of the users' table.

    Returns:
        The table: id and is_union_id (1 for a unionId, 0 for an openId) are its key; app_id is the
        app of an openId; union_id the user's current unionId where the users' table does not tell.
    """
    return Table(
        "mpauthx_link",
        metadata,
        Column("id", _ID, primary_key=True),
        Column("is_union_id", SmallInteger, primary_key=True, autoincrement=False),
        Column("app_id", _ID),
        Column("union_id", _ID, index=True),
        schema=schema,
    )
