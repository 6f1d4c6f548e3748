-- End sessions, of any generation.
-- KEYS, for each: session, user, online, ends, ban. ARGV, for each: user id, nonce, generation.
-- Returns for each 1, or 0 if it was not alive.
return each(0, function(session, user)
  if not is_alive(session) then return 0 end
  die(user, session, REVOKED)
  return 1
end)
