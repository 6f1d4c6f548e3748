-- List the living sessions of a user.
-- KEYS: user, online, ends, ban. ARGV: user id, prefix of the user's session keys.
-- Returns {nonce, value, details} of each.
local answers = {}
for _, session in ipairs((sessions_of(user_at(1, ARGV[1], ARGV[2])))) do
  answers[#answers + 1] = {session.nonce, session.value, session.details}
end
return answers
