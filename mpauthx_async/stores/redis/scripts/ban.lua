-- Ban a user and end all their sessions.
-- KEYS: user, online, ends, ban. ARGV: user id, prefix of the user's session keys, reason,
-- ttl or ''. Returns the nonces of those that were alive.
local user, ttl, ban = user_at(1, ARGV[1], ARGV[2]), tonumber(ARGV[4]), {NOW, ARGV[3]}
redis.call('DEL', user.ban)  -- first, because a full Redis accepts writes after it
if ttl then ban[3] = NOW + ttl end
redis.call('SET', user.ban, cjson.encode(ban))
if ttl then redis.call('PEXPIREAT', user.ban, ban[3]) end
return end_all(user, '', BANNED)
