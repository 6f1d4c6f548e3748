"""What is said to WeChat, and what WeChat says."""
