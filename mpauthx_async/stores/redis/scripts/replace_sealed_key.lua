-- Replace the sealed session key of a session.
-- KEYS: session, user, online, ends, ban. ARGV: user id, nonce, sealed key.
-- Returns {1}, or {0} if the session is not alive or Redis lost its details.
return each(0, function(session, user, nonce, sealed_key)
  local details = is_alive(session) and redis.call('HGET', user.key, nonce)
  if not details then return 0 end
  local parts = decode(details)
  parts[1], parts[2] = parts[1] or NOW, sealed_key
  redis.call('HSET', user.key, nonce, cjson.encode(parts))
  return 1
end)
