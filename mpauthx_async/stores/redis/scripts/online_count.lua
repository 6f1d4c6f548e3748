-- Count the online users of each bucket.
-- KEYS, for each bucket: ends. Returns for each bucket how many of its users are online.
local counts = {}
for i, ends in ipairs(KEYS) do counts[i] = redis.call('ZCOUNT', ends, NOW, '+inf') end
return counts
