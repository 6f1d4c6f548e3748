-- Put the next generation in the place of each session's token, and begin its life anew.
-- KEYS, for each: session, user, online, ends, ban.
-- ARGV: ttl, grace, absolute_ttl or 0 of what has no absolute end; for each: user id, nonce,
-- generation.
-- Returns for each {value, details}, or a status.
local ttl, grace, absolute_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

return each(3, function(session, user, nonce, asked)
  asked = tonumber(asked)
  if not session or asked > session.generation then return UNKNOWN end
  if not is_alive(session) then return session.ends end
  local details = redis.call('HGET', user.key, nonce) or '[' .. NOW .. ']'
  local has_grace = asked == session.generation - 1 and NOW < session.grace_until
  if has_grace then return {session.value, details} end
  if asked < session.generation then return ROTATED end
  session.generation, session.grace_until = asked + 1, NOW + grace
  local parts = decode(details)
  local absolute_end = absolute_ttl > 0  -- one that ends later keeps its end
    and math.max((tonumber(parts[1]) or NOW) + absolute_ttl, session.ends)
  live_until(user, session, math.min(NOW + ttl, tonumber(parts[5]) or absolute_end or math.huge))
  return {session.value, details}
end)
