"""A stand-in for WeChat's servers: real HTTP, no account. GET / lists its routes.

async with WeChatSimulator() as wx:
    code = wx.login("open-id-of-bob")  # what wx.login() gives a mini-program
    info = wx.get_user_info("open-id-of-bob")  # what wx.getUserInfo() gives it
    ...  # call the code under test with api_base=wx.url
"""

from .encrypt_keys import EncryptKey
from .faults import Fault
from .push import PushedEvent
from .routes import Request
from .sealing import PhoneNumber, SealedData, SealedUserInfo
from .server import WeChatSimulator

__all__ = [
    "EncryptKey",
    "Fault",
    "PhoneNumber",
    "PushedEvent",
    "Request",
    "SealedData",
    "SealedUserInfo",
    "WeChatSimulator",
]
