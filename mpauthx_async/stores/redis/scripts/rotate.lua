-- Begin the next generation of each session's token, and restart the session's lifetime.
-- KEYS, for each: session, user, online, ends, ban.
-- ARGV: ttl, grace, absolute_ttl as in renew.lua; for each: user id, nonce, generation.
-- Returns for each {value, details}, or a status.
local ttl, grace = tonumber(ARGV[1]), tonumber(ARGV[2])
local absolute_ttl = tonumber(ARGV[3]) or math.huge

return each(3, function(session, user, nonce, asked)
  asked = tonumber(asked)
  if not session or asked > session.generation then return UNKNOWN end
  if not is_alive(session) then return session.ends end
  local details = redis.call('HGET', user.key, nonce) or '[' .. NOW .. ']'
  local has_grace = asked == session.generation - 1 and NOW < session.grace_until
  if asked < session.generation then return has_grace and {session.value, details} or ROTATED end
  session.generation, session.grace_until = asked + 1, NOW + grace
  live_until(user, session, next_end(session, details, ttl, absolute_ttl))
  return {session.value, details}
end)
