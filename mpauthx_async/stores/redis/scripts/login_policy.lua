-- Enforce the login policy: end the sessions that a new one replaces. Part of issue.lua.

local function kind_of(parts)
  return (parts[4] or '') ~= '' and parts[4] or parts[3] or ''
end

-- The sessions of a kind. Those that began since the last call are sorted by their kinds first.
local function take_kind(user, kind)
  for i = user.sorted + 1, #user.living do
    local its_kind = kind_of(decode(user.living[i].details))
    user.of_kind[its_kind] = user.of_kind[its_kind] or {}
    table.insert(user.of_kind[its_kind], user.living[i])
  end
  local found = user.of_kind[kind] or {}
  user.sorted, user.of_kind[kind] = #user.living, nil
  return found
end

-- Returns the nonce and generation of each session that it ended.
local function make_room(user, kind, max_sessions, one_per_kind)
  local replaced = {}
  local function replace(session)
    if not is_alive(session) then return end
    die(user, session, REPLACED)
    session.ends, user.count = 0, user.count - 1
    table.insert(replaced, session.nonce)
    table.insert(replaced, session.generation)
  end
  if one_per_kind then
    for _, session in ipairs(take_kind(user, kind)) do replace(session) end
  end
  while user.count >= max_sessions do
    replace(user.living[user.oldest])
    user.oldest = user.oldest + 1
  end
  return replaced
end
