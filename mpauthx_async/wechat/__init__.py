"""The client of WeChat's API, and the decryption and parsing of what WeChat sends."""
