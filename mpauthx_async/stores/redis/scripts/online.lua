-- Read a page of the online users of each bucket.
-- KEYS, for each bucket: online, ends. ARGV: highest position, how many users to read.
-- Returns for each bucket the user id and position of each, highest first; the user id is '' for a
-- user who is no longer online.
local answers = {}
for i = 1, #KEYS, 2 do
  local users = redis.call(
    'ZREVRANGEBYSCORE', KEYS[i], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2]
  )
  for j = 1, #users, 2 do
    local ends = redis.call('ZSCORE', KEYS[i + 1], users[j])
    if tonumber(ends or 0) < NOW then users[j] = '' end
  end
  answers[#answers + 1] = users
end
return answers
