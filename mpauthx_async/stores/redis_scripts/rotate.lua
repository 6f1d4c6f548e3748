-- Put the next generation in the place of each session's token, and begin its life anew.
-- KEYS, for each: session, user, online, ends, ban.
-- ARGV: ttl, grace; for each: user id, nonce, generation.
-- Returns for each {value, details}, or a status.
local ttl, grace = tonumber(ARGV[1]), tonumber(ARGV[2])

return each(2, function(session, user, nonce, asked)
  asked = tonumber(asked)
  if not session or asked > session.generation then return UNKNOWN end
  if not is_alive(session) then return session.ends end
  local details = redis.call('HGET', user.key, nonce) or '[' .. NOW .. ']'
  local has_grace = asked == session.generation - 1 and NOW < session.grace_until
  if has_grace then return {session.value, details} end
  if asked < session.generation then return ROTATED end
  session.generation, session.grace_until = asked + 1, NOW + grace
  live_until(user, session, math.min(NOW + ttl, tonumber(decode(details)[5]) or math.huge))
  return {session.value, details}
end)
