"""Sessions once they are issued: validating, rotating, listing and ending them, and bans."""
