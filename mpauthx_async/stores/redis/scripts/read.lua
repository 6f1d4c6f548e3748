-- Read sessions.
-- KEYS, for each: session, user, online, ends, ban. ARGV, for each: user id, nonce, generation.
-- Returns for each {value, details}; {} if it is not alive or its generation is another.
return each(0, function(session, user, nonce, generation)
  if not is_alive(session) or session.generation ~= tonumber(generation) then return {} end
  local details = redis.call('HGET', user.key, nonce)
  return details and {session.value, details} or {}
end)
