-- Begin sessions; login_policy.lua ends those that they replace.
-- KEYS, for each: session, user, online, ends, ban. ARGV, for each: user id, nonce, a JSON array
-- [sealed_key, device, device_kind, ttl, absolute_ttl or 0, max_sessions, one_per_kind,
-- shared_token].
-- Returns for each {'begun', issued_at, nonce and generation of each replaced session};
-- {'known', nonce, value, details} of a session that lives already; or {'banned', ban}.

-- Read a user's sessions, once a batch, oldest first. Replaced sessions stay in the lists,
-- with end 0; the newest is always alive.
local function load(user)
  user.living, user.gone = sessions_of(user)
  for _, session in ipairs(user.living) do
    session.issued_at = tonumber(string.match(session.details, '^%[(%d+)')) or 0
  end
  table.sort(user.living, function(a, b) return a.issued_at < b.issued_at end)
  user.count, user.oldest, user.of_kind, user.sorted = #user.living, 1, {}, 0
end

-- Remove the user's ended sessions, and a few offline users of the bucket.
local function clear(user)
  while #user.gone > 0 do redis.call('HDEL', user.key, table.remove(user.gone)) end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', user.ends, '-inf', '(' .. NOW, 'LIMIT', 0, 8)) do
    for _, key in ipairs({user.online, user.ends}) do redis.call('ZREM', key, id) end
  end
end

return each(0, function(session, user, nonce, new)
  local ban = redis.call('GET', user.ban)
  if ban then return {'banned', ban} end
  if session then
    local details = redis.call('HGET', user.key, nonce)
    return details and {'known', nonce, session.value, details} or {'begun', NOW}
  end
  if not user.living then load(user) end
  local sealed_key, device, kind, ttl, absolute_ttl, max_sessions, one_per_kind, shared_token =
    unpack(cjson.decode(new))
  local last = user.living[#user.living]
  if shared_token and last then
    live_until(user, last, next_end(last, last.details, ttl, math.huge))
    return {'known', last.nonce, last.value, last.details}
  end
  -- No two sessions of a user begin in the same millisecond, so that their order is known.
  local issued_at = math.max(NOW, last and last.issued_at + 1 or 0)
  local ends, parts = issued_at + ttl, {issued_at, sealed_key, device, kind}
  if absolute_ttl > 0 then parts[5] = issued_at + absolute_ttl end
  while parts[#parts] == '' do parts[#parts] = nil end
  local key, details = user.prefix .. nonce, cjson.encode(parts)
  redis.call('SET', key, ends, 'PXAT', ends)
  redis.call('HSET', user.key, nonce, details)
  stay_online(user, ends, true)
  local replaced = make_room(user, kind_of(parts), max_sessions, one_per_kind)
  table.insert(user.living, {key = key, nonce = nonce, ends = ends, generation = 0,
    grace_until = 0, issued_at = issued_at, details = details})
  user.count = user.count + 1
  clear(user)
  return {'begun', issued_at, unpack(replaced)}
end)
