-- Detect theft: end the sessions of which an earlier token was used again. The token before the
-- current one has a grace.
-- KEYS, for each: session, user, online, ends, ban. ARGV, for each: user id, nonce, generation.
-- Returns for each 1, or 0 if it is left as it is.
return each(0, function(session, user, _, used)
  if not is_alive(session) or tonumber(used) >= session.generation then return 0 end
  if tonumber(used) == session.generation - 1 and NOW < session.grace_until then return 0 end
  die(user, session, REUSED)
  return 1
end)
