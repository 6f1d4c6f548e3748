-- Restart the lifetimes of sessions of which a tenth has passed.
-- KEYS, for each: session, user, online, ends, ban.
-- ARGV: ttl, absolute_ttl of sessions that began without it or ''; for each: user id, nonce,
-- generation. Returns for each when it ends, or a status.
local ttl, absolute_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]) or math.huge

return each(2, function(session, user, nonce, asked)
  if not session or tonumber(asked) > session.generation then return UNKNOWN end
  if is_alive(session) and tonumber(asked) < session.generation then return ROTATED end
  if not is_alive(session) or session.ends > NOW + 0.9 * ttl then return session.ends end
  local ends = next_end(session, redis.call('HGET', user.key, nonce) or '', ttl, absolute_ttl)
  if ends > session.ends then live_until(user, session, ends) end
  return session.ends
end)
