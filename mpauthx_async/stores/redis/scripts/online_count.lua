-- Count who is online.
-- KEYS: ends of each bucket. Returns {how many are online in all of these}.
local count = 0
for _, ends in ipairs(KEYS) do count = count + redis.call('ZCOUNT', ends, NOW, '+inf') end
return {count}
