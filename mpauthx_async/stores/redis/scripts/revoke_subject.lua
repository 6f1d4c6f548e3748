-- End all sessions of a user but one.
-- KEYS: user, online, ends, ban. ARGV: user id, prefix of the user's session keys, nonce to
-- spare or ''. Returns the nonces of those that were alive.
return end_all(user_at(1, ARGV[1], ARGV[2]), ARGV[3], REVOKED)
