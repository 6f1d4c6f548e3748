"""The Lua scripts of RedisTokenStore: each is one atomic step.

Scripts know the keys of a bucket by one that they are given, so that a login need not send them
all; every key of a bucket has the same hash tag, and so lies in the same slot of a cluster.

A user's sessions are the lines of a text, oldest first. The words of a line stand between tabs, the
last ones left out when they are empty:

    nonce, issued_at, sealed key, kind of device, device, absolute end, last seen

Who is online is kept so that pages are stable and counts exact, at the cost of one entry for most:
a user's position, the end of the session with which they came online, stays while they are online.
In `o` it is their end too. Whoever has another end, because they logged in again, say, stands in
`l` with the position and in `e` with the end. In each, what is below now is dead.
"""

__all__ = [
    "BAN",
    "COUNT_ONLINE",
    "END_REUSED",
    "ISSUE",
    "ONLINE",
    "READ",
    "RENEW",
    "REPLACE_SEALED_KEY",
    "REVOKE",
    "REVOKE_SUBJECT",
    "ROTATE",
    "SESSIONS",
]

_COMMON = """
local REPLACED, REVOKED, BANNED, ROTATED, REUSED = -1, -2, -3, -4, -5
local UNKNOWN = 0
local REMEMBERED = 2592000000  -- milliseconds: the dead are remembered for 30 days at most
local MOST = 1000  -- sessions of a user, that a login costs no more than so many of its own
local MOST_BYTES = 30000  -- of a user's text, which has fewer than those in it
local TIDIED = 8  -- lines of a user, and users of a bucket, that a login looks at for dead ones
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)

local texts = {}  -- of numbers: of a batch's many times most are the same
local function int(number)
  if not texts[number] then texts[number] = string.format('%d', number) end
  return texts[number]
end

-- The keys of a bucket, or what they begin with, each made when it is first needed.
local FORMS = {
  session = 'mpauthx:t:%s:', ban = 'mpauthx:b:%s:', grace = 'mpauthx:g:%s:',
  users = 'mpauthx:u:%s',
  online = 'mpauthx:o:%s', longer = 'mpauthx:l:%s', ends = 'mpauthx:e:%s',
}
local BUCKET = {__index = function(bucket, name)
  bucket[name] = string.format(FORMS[name], bucket.tag)
  return bucket[name]
end}

-- A bucket by its hash tag in braces.
local function bucket_of(tag) return setmetatable({tag = tag}, BUCKET) end

local function bucket_of_users(key) return bucket_of(string.sub(key, 11)) end
local function bucket_of_session(key, nonce)
  return bucket_of(string.sub(key, 11, -#nonce - 2))
end

-- A session's value: its end, or below zero why it died; and the generation of its token.
local function parse(value)
  local number, generation = string.match(value, '^(%-?%d+) ?(%d*)$')
  return tonumber(number), tonumber(generation) or 0
end

local function value_of(ends, generation)
  if generation == 0 then return int(ends) end
  return int(ends) .. ' ' .. int(generation)
end

local function words(line)
  return {string.match(line,
    '^([^\\t]*)\\t?([^\\t]*)\\t?([^\\t]*)\\t?([^\\t]*)\\t?([^\\t]*)\\t?([^\\t]*)\\t?(.*)$')}
end

local function line_of(parts) return (string.gsub(table.concat(parts, '\\t'), '\\t+$', '')) end

local function lines_of(bucket, user)
  local lines = {}
  for line in string.gmatch(redis.call('HGET', bucket.users, user) or '', '[^\\n]+') do
    lines[#lines + 1] = line
  end
  return lines
end

local function nonce_of(line) return string.match(line, '^[^\\t]*') end

-- The end and the generation of a session that is alive; nothing else has an end.
local function alive(bucket, nonce)
  local value = redis.call('GET', bucket.session .. nonce)
  if not value then return end
  local ends, generation = parse(value)
  if ends > 0 then return ends, generation, value end
end

-- What stands before and behind a session's line in the text of its user, and the line.
local function find_line(text, nonce)
  text = '\\n' .. text
  local start = string.find(text, '\\n' .. nonce .. '\\t', 1, true)
  if not start then return end
  local stop = string.find(text, '\\n', start + 1, true) or #text + 1
  local before, behind = string.sub(text, 2, start - 1), string.sub(text, stop + 1)
  return string.sub(text, start + 1, stop - 1), before, behind
end

-- Whether a living session is this user's; only where Redis evicted the bucket's users not known.
local function is_of(bucket, user, nonce)
  return find_line(redis.call('HGET', bucket.users, user) or '', nonce)
    or redis.call('EXISTS', bucket.users) == 0
end

local function join(...)
  local parts = {}
  for _, part in ipairs({...}) do
    if part ~= '' then parts[#parts + 1] = part end
  end
  return table.concat(parts, '\\n')
end

-- Redis deletes a bucket's keys together, when the last session in it has ended: were those of who
-- is online gone before, nothing would tell whose sessions can be cleared away.
local function keep(bucket, ends, ...)
  local left = redis.call('PTTL', bucket.users)
  if left < ends - NOW then
    -- A little longer, so that not each login has to move it on.
    local last = int(ends + math.min(60000, math.floor((ends - NOW) / 64)))
    for _, key in ipairs({bucket.users, bucket.online, bucket.longer, bucket.ends}) do
      redis.call('PEXPIREAT', key, last)
    end
  else
    for _, key in ipairs({...}) do
      if redis.call('PTTL', key) == -1 then redis.call('PEXPIREAT', key, int(NOW + left)) end
    end
  end
end

-- The line of a session that is alive, which has one unless Redis evicted it.
local function read_line(bucket, user, nonce)
  return (find_line(redis.call('HGET', bucket.users, user) or '', nonce))
    or nonce .. '\\t' .. int(NOW)
end

local function write_line(bucket, user, nonce, change)
  local line, before, behind = find_line(redis.call('HGET', bucket.users, user) or '', nonce)
  local parts = words(line or nonce .. '\\t' .. int(NOW))
  change(parts)
  line = line_of(parts)
  redis.call('HSET', bucket.users, user, join(before or '', line, behind or ''))
  return line
end

-- Until when a user is online, 0 for who is not; and whether the end stands apart, be it over.
local function online_end(bucket, user)
  local ends = redis.call('ZSCORE', bucket.ends, user)
  if ends and tonumber(ends) >= NOW then return tonumber(ends), true end
  local is_apart = ends and true or false
  ends = tonumber(redis.call('ZSCORE', bucket.online, user) or 0)
  if ends >= NOW then return ends, false end
  return 0, is_apart
end

local function go_offline(bucket, user)
  redis.call('ZREM', bucket.online, user)
  redis.call('ZREM', bucket.longer, user)
  redis.call('ZREM', bucket.ends, user)
  redis.call('HDEL', bucket.users, user)
end

-- The user's last session ends then, and no longer when it seemed; or not before then.
local function set_online_end(bucket, user, ends, at_least)
  local current, is_apart = online_end(bucket, user)
  if at_least then ends = math.max(ends, current) end
  if current == ends then
    keep(bucket, ends)
  elseif current == 0 then
    if is_apart then
      redis.call('ZREM', bucket.longer, user)
      redis.call('ZREM', bucket.ends, user)
    end
    redis.call('ZADD', bucket.online, int(ends), user)
    keep(bucket, ends, bucket.online)
  else
    if not is_apart then
      redis.call('ZREM', bucket.online, user)
      redis.call('ZADD', bucket.longer, int(current), user)
    end
    redis.call('ZADD', bucket.ends, int(ends), user)
    keep(bucket, ends, bucket.longer, bucket.ends)
  end
end

-- After a session of theirs has ended, or ends earlier.
local function update_online(bucket, user)
  local last = 0
  for _, line in ipairs(lines_of(bucket, user)) do
    last = math.max(last, alive(bucket, nonce_of(line)) or 0)
  end
  if last == 0 then go_offline(bucket, user) else set_online_end(bucket, user, last) end
end

local function begin_life(bucket, user, nonce, ends, generation, old)
  redis.call('SET', bucket.session .. nonce, value_of(ends, generation), 'PXAT', int(ends))
  if ends < old then
    update_online(bucket, user)
  else
    set_online_end(bucket, user, ends, true)
  end
end

-- A session dies, and is remembered; the line of it goes on its own.
local function die(bucket, nonce, ends, generation, status)
  -- A deletion first: for a full Redis takes what follows one.
  redis.call('DEL', bucket.grace .. nonce)
  local until_then = int(math.min(ends, NOW + REMEMBERED))
  redis.call('SET', bucket.session .. nonce, value_of(status, generation), 'PXAT', until_then)
end

local function end_session(bucket, user, nonce, ends, generation, status)
  die(bucket, nonce, ends, generation, status)
  local line, before, behind = find_line(redis.call('HGET', bucket.users, user) or '', nonce)
  if line then
    local rest = join(before, behind)
    if rest == '' then
      go_offline(bucket, user)
    else
      redis.call('HSET', bucket.users, user, rest)
      if ends >= online_end(bucket, user) then update_online(bucket, user) end
    end
  else  -- evicted
    go_offline(bucket, user)
  end
end

-- End all sessions of a user but one; the nonces of those that were alive.
local function end_sessions(bucket, user, spared, status)
  local ended, kept = {}, ''
  for _, line in ipairs(lines_of(bucket, user)) do
    local nonce = nonce_of(line)
    local ends, generation = alive(bucket, nonce)
    if nonce == spared then
      if ends then kept = line end
    elseif ends then
      die(bucket, nonce, ends, generation, status)
      ended[#ended + 1] = nonce
    end
  end
  if kept == '' then
    go_offline(bucket, user)
  elseif #ended > 0 then  -- else a full Redis would take nothing, and need not
    redis.call('HSET', bucket.users, user, kept)
    update_online(bucket, user)
  end
  return ended
end
"""

# KEYS: of each session its own. ARGV: for each its user; its nonce; its terms, "ttl,absolute ttl or
# nothing,rule", where the rule is "max_sessions,one_per_kind,shared_token" or nothing; its words
# from the sealed key on, in full where there is an absolute ttl; the key of another ban that holds
# for the user, or nothing.
# Returns for each: when it was issued; {0, value, line} of one that was there already;
# {1, when, {nonce and generation of each that it replaced}}; {2, ban}, or {3, ban} for the other.
ISSUE = (
    _COMMON
    + """
local function repeated(bucket, user, nonce, value)
  local line = find_line(redis.call('HGET', bucket.users, user) or '', nonce)
  return line and {0, value, line} or NOW
end

-- What a user's text keeps: of a few of its lines, all of them in most, only the living.
local function tidied(bucket, text)
  if text == '' then return text end
  local start = #text > 1024 and string.find(text, '\\n', NOW % #text + 1, true) or 0
  local kept, stop = {}, start
  for _ = 1, TIDIED do
    if stop >= #text then break end
    local next_stop = string.find(text, '\\n', stop + 1, true) or #text + 1
    local line = string.sub(text, stop + 1, next_stop - 1)
    if alive(bucket, nonce_of(line)) then kept[#kept + 1] = line end
    stop = next_stop
  end
  local before = start > 0 and string.sub(text, 1, start - 1) or ''
  return join(before, table.concat(kept, '\\n'), string.sub(text, stop + 1))
end

local function tidy_bucket(bucket)
  local before_now = '(' .. int(NOW)
  local gone = redis.call('ZRANGEBYSCORE', bucket.online, '-inf', before_now, 'LIMIT', 0, TIDIED)
  for _, user in ipairs(gone) do go_offline(bucket, user) end
  gone = redis.call('ZRANGEBYSCORE', bucket.ends, '-inf', before_now, 'LIMIT', 0, TIDIED)
  for _, user in ipairs(gone) do go_offline(bucket, user) end
end

local function share(bucket, user, ttl)
  local lines = lines_of(bucket, user)
  for i = #lines, 1, -1 do
    local nonce = nonce_of(lines[i])
    local old, generation = alive(bucket, nonce)
    if old then
      local ends = NOW + ttl
      local line = write_line(bucket, user, nonce, function(parts)
        ends = math.min(ends, tonumber(parts[6]) or math.huge)
        parts[7] = int(NOW)
      end)
      begin_life(bucket, user, nonce, ends, generation, old)
      return {0, value_of(ends, generation), line}
    end
  end
end

-- End what a new session's policy ends; the text that is left, and what was ended.
local function replace(bucket, text, rule, new_line)
  local most, per_kind = string.match(rule, '^(%d+),(%d)')
  local function kind_of(line)
    local parts = words(line)
    return parts[4] ~= '' and parts[4] or parts[5]
  end
  local new_kind, living, replaced = kind_of(new_line), {}, {}
  local function end_one(session)
    die(bucket, session.nonce, session.ends, session.generation, REPLACED)
    replaced[#replaced + 1] = session.nonce
    replaced[#replaced + 1] = session.generation
  end
  for line in string.gmatch(text, '[^\\n]+') do
    local session = {line = line, nonce = nonce_of(line)}
    session.ends, session.generation = alive(bucket, session.nonce)
    if session.ends then
      if per_kind == '1' and kind_of(line) == new_kind then
        end_one(session)
      else
        living[#living + 1] = session
      end
    end
  end
  local excess = tonumber(most) > 0 and #living - tonumber(most) + 1 or 0
  local kept = {}
  for i, session in ipairs(living) do
    if i <= excess then end_one(session) else kept[#kept + 1] = session.line end
  end
  return table.concat(kept, '\\n'), replaced
end

local terms_text, ttl, absolute_ttl, rule  -- of the session before: most often all have the same

local function issue(key, user, nonce, terms, words_behind, other_ban)
  local bucket = bucket_of_session(key, nonce)
  local ban_key = bucket.ban .. user
  local found = other_ban == '' and redis.call('MGET', key, ban_key)
    or redis.call('MGET', key, ban_key, other_ban)
  local value = found[1]
  if found[2] then return {2, found[2]} end
  if found[3] then return {3, found[3]} end
  if value then return repeated(bucket, user, nonce, value) end
  if terms ~= terms_text then
    terms_text = terms
    ttl, absolute_ttl, rule = string.match(terms, '^(%d+),(%d*),(.*)$')
    ttl, absolute_ttl = tonumber(ttl), tonumber(absolute_ttl)
  end
  if string.sub(rule, -1) == '1' then
    local shared = share(bucket, user, ttl)
    if shared then return shared end
  end
  local stored = redis.call('HGET', bucket.users, user)
  local text = stored or ''
  local newest = string.match(text, '^.*\\n(.*)$') or text
  -- No two sessions of a user begin in the same millisecond, so that their order is known.
  local issued_at = math.max(NOW, tonumber(string.match(newest, '^[^\\t]*\\t(%d+)') or 0) + 1)
  local line = nonce .. '\\t' .. int(issued_at)
  if words_behind ~= '' then line = line .. '\\t' .. words_behind end
  local ends = issued_at + ttl
  if absolute_ttl then
    local absolute_end = issued_at + absolute_ttl
    line = line .. '\\t' .. int(absolute_end)
    ends = math.min(ends, absolute_end)
  end
  redis.call('SET', key, int(ends), 'PXAT', int(ends))
  local limit = rule
  if rule == '' and #text > MOST_BYTES then limit = MOST .. ',0,0' end
  local replaced = {}
  if limit == '' or string.sub(limit, -1) == '1' then
    text = tidied(bucket, text)
  else
    text, replaced = replace(bucket, text, limit, line)
  end
  -- Who has no text is not online; but where Redis evicted the texts, they may stand apart.
  local is_known = stored or redis.call('ZSCORE', bucket.ends, user)
  local left = is_known and -1 or redis.call('PTTL', bucket.users)
  redis.call('HSET', bucket.users, user, join(text, line))
  if #replaced > 0 then
    update_online(bucket, user)
  elseif left >= ends - NOW then  -- by far the most frequent case: nobody has known them
    redis.call('ZADD', bucket.online, int(ends), user)
    if redis.call('PTTL', bucket.online) == -1 then
      redis.call('PEXPIREAT', bucket.online, int(NOW + left))
    end
  else
    set_online_end(bucket, user, ends, true)
  end
  tidy_bucket(bucket)
  if #replaced == 0 then return issued_at end
  return {1, issued_at, replaced}
end

local answers = {}
for i, key in ipairs(KEYS) do answers[i] = issue(key, unpack(ARGV, 5 * i - 4, 5 * i)) end
return answers
"""
)

# KEYS: of each session its own. ARGV: for each its user, nonce and generation.
# Returns for each {value, line}; nothing where it is not alive, not of this generation or has none.
READ = (
    _COMMON
    + """
local answers = {}
for i, key in ipairs(KEYS) do
  local user, nonce, asked = ARGV[3 * i - 2], ARGV[3 * i - 1], tonumber(ARGV[3 * i])
  local bucket = bucket_of_session(key, nonce)
  local _, generation, value = alive(bucket, nonce)
  local line = generation == asked
    and find_line(redis.call('HGET', bucket.users, user) or '', nonce)
  answers[i] = line and {value, line} or {}
end
return answers
"""
)

# KEYS: of each session its own. ARGV: for each its user and nonce. Returns for each 1 or 0.
REVOKE = (
    _COMMON
    + """
local ended = {}
for i, key in ipairs(KEYS) do
  local user, nonce = ARGV[2 * i - 1], ARGV[2 * i]
  local bucket = bucket_of_session(key, nonce)
  local ends, generation = alive(bucket, nonce)
  if ends and is_of(bucket, user, nonce) then
    end_session(bucket, user, nonce, ends, generation, REVOKED)
    ended[i] = 1
  else
    ended[i] = 0
  end
end
return ended
"""
)

# KEYS: the bucket's users. ARGV: the user. Returns {value, line} of each that is alive.
SESSIONS = (
    _COMMON
    + """
local bucket, answers = bucket_of_users(KEYS[1]), {}
for _, line in ipairs(lines_of(bucket, ARGV[1])) do
  local _, _, value = alive(bucket, nonce_of(line))
  if value then answers[#answers + 1] = {value, line} end
end
return answers
"""
)

# KEYS: the bucket's users. ARGV: the user, and the nonce of a session to be spared or nothing.
# Returns the nonces of those that were alive.
REVOKE_SUBJECT = (
    _COMMON
    + """
return end_sessions(bucket_of_users(KEYS[1]), ARGV[1], ARGV[2], REVOKED)
"""
)

# KEYS: of each session its own. ARGV: ttl, grace, and an absolute ttl for those that have no
# absolute end, or nothing; for each its user, nonce and generation.
# Returns for each {value, line}, or a status.
ROTATE = (
    _COMMON
    + """
local ttl, grace = tonumber(ARGV[1]), tonumber(ARGV[2])
local absolute_ttl = tonumber(ARGV[3]) or math.huge

local function rotate(key, user, nonce, asked)
  local bucket, value = bucket_of_session(key, nonce), redis.call('GET', key)
  if not value then return UNKNOWN end
  local old, generation = parse(value)
  if asked > generation then return UNKNOWN end
  if old < 0 then return old end
  if asked == generation - 1 and redis.call('EXISTS', bucket.grace .. nonce) == 1 then
    return {value, read_line(bucket, user, nonce)}
  end
  if asked < generation then return ROTATED end
  local ends = NOW + ttl
  local line = write_line(bucket, user, nonce, function(parts)
    ends = math.min(ends, tonumber(parts[6]) or math.max(parts[2] + absolute_ttl, old))
    parts[7] = int(NOW)
  end)
  begin_life(bucket, user, nonce, ends, generation + 1, old)
  if grace > 0 then
    redis.call('SET', bucket.grace .. nonce, 1, 'PX', int(grace))
  else
    redis.call('DEL', bucket.grace .. nonce)
  end
  return {value_of(ends, generation + 1), line}
end

local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = rotate(key, ARGV[3 * i + 1], ARGV[3 * i + 2], tonumber(ARGV[3 * i + 3]))
end
return answers
"""
)

# KEYS: of each session its own. ARGV: for each its user, nonce and generation. Returns 1 or 0.
END_REUSED = (
    _COMMON
    + """
local ended = {}
for i, key in ipairs(KEYS) do
  local user, nonce, used = ARGV[3 * i - 2], ARGV[3 * i - 1], tonumber(ARGV[3 * i])
  local bucket = bucket_of_session(key, nonce)
  local ends, generation = alive(bucket, nonce)
  local is_stolen = ends and used < generation
    and not (used == generation - 1 and redis.call('EXISTS', bucket.grace .. nonce) == 1)
  if is_stolen then end_session(bucket, user, nonce, ends, generation, REUSED) end
  ended[i] = is_stolen and 1 or 0
end
return ended
"""
)

# KEYS: of each session its own. ARGV: ttl, and an absolute ttl for those that have no absolute end,
# or nothing; for each its user, nonce and generation. Returns for each when it ends or a status.
RENEW = (
    _COMMON
    + """
local ttl, absolute_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]) or math.huge

local function renew(key, user, nonce, asked)
  local value = redis.call('GET', key)
  if not value then return UNKNOWN end
  local old, generation = parse(value)
  if asked > generation then return UNKNOWN end
  if old < 0 then return old end
  if asked < generation then return ROTATED end
  if old > NOW + 0.9 * ttl then return old end
  local bucket = bucket_of_session(key, nonce)
  local parts = words(read_line(bucket, user, nonce))
  local ends = math.min(NOW + ttl, tonumber(parts[6]) or parts[2] + absolute_ttl)
  if ends <= old then return old end
  write_line(bucket, user, nonce, function(parts) parts[7] = int(NOW) end)
  begin_life(bucket, user, nonce, ends, generation, old)
  return ends
end

local answers = {}
for i, key in ipairs(KEYS) do
  answers[i] = renew(key, ARGV[3 * i], ARGV[3 * i + 1], tonumber(ARGV[3 * i + 2]))
end
return answers
"""
)

# KEYS: the bucket's users. ARGV: the user, a reason, and for how long or nothing.
# Returns the nonces of the sessions that were alive.
BAN = (
    _COMMON
    + """
local bucket, user, reason, ttl = bucket_of_users(KEYS[1]), unpack(ARGV)
local key = bucket.ban .. user
redis.call('DEL', key)  -- first, for a full Redis takes what follows a deletion
if ttl == '' then
  redis.call('SET', key, int(NOW) .. '\\t\\t' .. reason)
else
  local ends = int(NOW + ttl)
  redis.call('SET', key, int(NOW) .. '\\t' .. ends .. '\\t' .. reason, 'PXAT', ends)
end
return end_sessions(bucket, user, '', BANNED)
"""
)

# KEYS: the users of each bucket. ARGV: the position and the user id to go on below, and how many.
# Returns for each bucket, of who came online with one session and of the others in turn: {user and
# position of each, highest first}, and behind it, if there may be more below, the last one seen.
ONLINE = (
    _COMMON
    + """
local position, last, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local ROUNDS = 4  -- after so many, with remains of the dead among them, the page ends

-- Whether a text comes before another, highest first. Lua's own order is that of a locale.
local function comes_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

local function is_shown(user, score)
  return score == position and (user == last or comes_before(user, last))
end

local function page(key, lowest, is_online)
  local found, offset, rounds = {}, 0, 0
  while true do
    local part = redis.call(
      'ZREVRANGEBYSCORE', key, position, lowest, 'WITHSCORES', 'LIMIT', offset, count
    )
    for i = 1, #part, 2 do
      local user, score = part[i], part[i + 1]
      if not is_shown(user, score) then
        if is_online(user) then
          found[#found + 1] = user
          found[#found + 1] = score
        end
        if #found == 2 * count then return {found, user, score} end
      end
    end
    if #part < 2 * count then return {found} end
    offset = offset + count
    rounds = rounds + (is_shown(part[#part - 1], part[#part]) and 0 or 1)
    if rounds == ROUNDS then return {found, part[#part - 1], part[#part]} end
  end
end

local answers = {}
for _, key in ipairs(KEYS) do
  local bucket = bucket_of_users(key)
  answers[#answers + 1] = page(bucket.online, int(NOW), function() return true end)
  answers[#answers + 1] = page(bucket.longer, '-inf', function(user)
    return tonumber(redis.call('ZSCORE', bucket.ends, user) or 0) >= NOW
  end)
end
return answers
"""
)

# KEYS: the users of each bucket. Returns how many are online in all of these.
COUNT_ONLINE = (
    _COMMON
    + """
local count = 0
for _, key in ipairs(KEYS) do
  local bucket = bucket_of_users(key)
  count = count + redis.call('ZCOUNT', bucket.online, int(NOW), '+inf')
  count = count + redis.call('ZCOUNT', bucket.ends, int(NOW), '+inf')
end
return {count}
"""
)

# KEYS: the session's own. ARGV: its user, its nonce, its new sealed key. Returns {1} or {0}.
REPLACE_SEALED_KEY = (
    _COMMON
    + """
local user, nonce, sealed_key = unpack(ARGV)
local bucket = bucket_of_session(KEYS[1], nonce)
local ends = alive(bucket, nonce)
if not ends then return {0} end
write_line(bucket, user, nonce, function(parts) parts[3] = sealed_key end)
keep(bucket, ends)
return {1}
"""
)
