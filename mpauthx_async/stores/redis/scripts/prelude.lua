-- The keys in Redis, and the functions that scripts share. A user id is in one of 256 buckets.
--
-- session  mpauthx:t:{sku:bucket}:<binding>:<nonce>  string: "end"; once renewed or rotated
--            "end:generation:last_seen:grace_until"; once ended "status" or "status:generation"
-- user     mpauthx:u:{sku:bucket}:<user id>  hash: nonce to a JSON array, without empty fields at
--            its end: [issued_at, sealed_key, device, device_kind, absolute_end]
-- online   mpauthx:o:{sku:bucket}  sorted set: user id to when they came online, in microseconds
-- ends     mpauthx:e:{sku:bucket}  sorted set: user id to the end of the user's longest session
-- ban      mpauthx:b:{sku:bucket}:<user id>  string: JSON array [banned_at, reason, until]
--
-- Times are Unix milliseconds by Redis's clock, statuses those of TokenStatus. A session key
-- expires at the session's end, a user's hash at the end of the user's longest session.

local REPLACED, REVOKED, BANNED, ROTATED, REUSED, UNKNOWN = -1, -2, -3, -4, -5, 0
local MAX_REMEMBERED_MS = 30 * 24 * 3600 * 1000  -- how long the status of an ended session stays
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)
local position = TIME[1] * 1000000 + TIME[2]  -- of the next user who comes online

local function parse(value)  -- nil unless it is the value of a session
  local ends, generation, grace_until =
    string.match(value or '', '^(%-?%d+):?(%d*):?%d*:?(%d*)$')
  return ends and {value = value, ends = tonumber(ends), generation = tonumber(generation) or 0,
    grace_until = tonumber(grace_until) or 0}
end

local function is_alive(session) return session and session.ends > 0 end

local function decode(details)  -- an empty table if they are damaged
  local succeeded, parts = pcall(cjson.decode, details)
  return succeeded and type(parts) == 'table' and parts or {}
end

-- The user of the KEYS from `place` on: user, online, ends, ban. `prefix` is of the session keys.
local users = {}
local function user_at(place, id, prefix)
  local key, online, ends, ban = unpack(KEYS, place, place + 3)
  users[key] = users[key]
    or {id = id, key = key, online = online, ends = ends, ban = ban, prefix = prefix, lost = 0}
  return users[key]
end

-- Read a user's sessions, 1,000 at most: the living, and the nonces of the others.
local function sessions_of(user)
  local fields, keys, living, gone = redis.call('HGETALL', user.key), {}, {}, {}
  for i = 1, #fields, 2 do keys[#keys + 1] = user.prefix .. fields[i] end
  for i, value in ipairs(#keys > 0 and redis.call('MGET', unpack(keys)) or {}) do
    local session = parse(value)
    if is_alive(session) then
      session.key, session.nonce, session.details = keys[i], fields[2 * i - 1], fields[2 * i]
      living[#living + 1] = session
    else
      gone[#gone + 1] = fields[2 * i - 1]
    end
  end
  return living, gone
end

local function online_until(user) return tonumber(redis.call('ZSCORE', user.ends, user.id) or 0) end

-- Keep a user online until the end of their longest session; with is_least, until at least `ends`.
-- Both sorted sets expire a little after their last user, so few logins have to extend them.
local function stay_online(user, ends, is_least)
  local before, slack = online_until(user), math.min(60000, math.floor((ends - NOW) / 64))
  if is_least then ends = math.max(ends, before) end
  if before < NOW then
    redis.call('ZADD', user.online, position, user.id)
    position = position + 1
  end
  redis.call('ZADD', user.ends, ends, user.id)
  redis.call('PEXPIREAT', user.key, ends)
  for _, key in ipairs({user.online, user.ends}) do
    if redis.call('PTTL', key) < ends - NOW then redis.call('PEXPIREAT', key, ends + slack) end
  end
end

local function go_offline(user)
  for _, key in ipairs({user.online, user.ends}) do redis.call('ZREM', key, user.id) end
  redis.call('DEL', user.key)
end

-- After a batch: if the user's longest session died or was shortened, find the longest one now.
local function settle(user)
  if user.lost == 0 or user.lost < online_until(user) then return end
  local ends, living = 0, user.living or sessions_of(user)
  for _, session in ipairs(living) do ends = math.max(ends, session.ends) end
  if ends > 0 then stay_online(user, ends) else go_offline(user) end
end

-- The end of a lifetime that begins now. absolute_ttl limits sessions without an absolute end.
local function next_end(session, details, ttl, absolute_ttl)
  local parts = decode(details)
  local latest = math.max((tonumber(parts[1]) or NOW) + absolute_ttl, session.ends)
  return math.min(NOW + ttl, tonumber(parts[5]) or latest)
end

local function live_until(user, session, ends)  -- its lifetime restarts
  session.value = string.format('%d:%d:%d:%d', ends, session.generation, NOW, session.grace_until)
  redis.call('SET', session.key, session.value, 'PXAT', ends)
  stay_online(user, ends, true)
  if ends < session.ends then user.lost = math.max(user.lost, session.ends) end
  session.ends = ends
end

local function die(user, session, status)
  redis.call('HDEL', user.key, session.nonce)  -- first: a full Redis accepts writes after it
  local value = session.generation == 0 and status or status .. ':' .. session.generation
  redis.call('SET', session.key, value, 'PXAT', math.min(session.ends, NOW + MAX_REMEMBERED_MS))
  user.lost = math.max(user.lost, session.ends)
end

-- Answer each item of a batch: of five KEYS (session, user, online, ends, ban) and three ARGV (user
-- id, nonce, its own argument) after the `common` ARGV. `answer` gets nil for a session that does
-- not exist. Each item fails alone. On a cluster there are two more KEYS.
local function each(common, answer)
  local function item(i)
    local key, place = KEYS[5 * i - 4], common + 3 * i - 2
    local id, nonce, asked = unpack(ARGV, place, place + 2)
    local value = redis.call('GET', key)
    local session = parse(value)
    if value and not session then error('DAMAGED', 0) end
    if session then session.key, session.nonce = key, nonce end
    return answer(session, user_at(5 * i - 3, id, string.sub(key, 1, -#nonce - 1)), nonce, asked)
  end
  local answers = {}
  for i = 1, math.floor(#KEYS / 5) do
    local succeeded, result = pcall(item, i)
    local failure = type(result) == 'table' and result.err or result
    answers[i] = succeeded and result or {err = tostring(failure)}
  end
  for _, user in pairs(users) do settle(user) end
  return answers
end

-- End all sessions of a user but one; returns the nonces of those that were alive.
local function end_all(user, spared, status)
  local ended, kept = {}, 0
  for _, session in ipairs((sessions_of(user))) do
    if session.nonce == spared then
      kept = session.ends
    else
      die(user, session, status)
      ended[#ended + 1] = session.nonce
    end
  end
  if kept == 0 then go_offline(user) elseif #ended > 0 then stay_online(user, kept) end
  return ended
end
