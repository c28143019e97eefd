-- Note who of one replica is in a room, and say who is of all of them.
--
-- KEYS: numbering (the channel has the same name), presence (a hash).
-- ARGV: run id of this server, command that publishes, name of the replica, version
--       that it knows (0: none), ttl in ms, how many people may be named, how many of
--       them are this replica's, and who, as a JSON object.
-- Of each replica the hash keeps "expiry ttl count people"; what has expired goes, and
-- what cannot be read. An expiry is an hour of Redis' clock, which may be set back: one
-- that is further ahead than its ttl is stamped anew. (One that was set forward makes
-- all forget all; each replica notices that it was forgotten, and waits.) A change is
-- published as the name of the replica that made it, without a space, unlike messages.
-- Returns the version, whether the replica knew of one though what it had said is gone,
-- and how many people are there; then, if the version is not the one that it knows and
-- they are not too many, who: a JSON object for each replica.
local me, known = ARGV[3], tonumber(ARGV[4])
local presence, ttl, limit = KEYS[2], tonumber(ARGV[5]), tonumber(ARGV[6])
local count, people = tonumber(ARGV[7]), ARGV[8]

local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local function note(name, good, say)
  local expiry = string.format('%.0f', now + tonumber(good))
  redis.call('HSET', presence, name, expiry .. ' ' .. good .. ' ' .. say)
end

local version, changed, said, total, all = 0, false, nil, count, {}
local longest = ttl
if count > 0 then
  all[1] = people
end
local kept = redis.call('HGETALL', presence)
for i = 1, #kept, 2 do
  local name = kept[i]
  if name == 'version' then
    version = tonumber(kept[i + 1]) or 0
  else
    local expiry, good, number, who =
      string.match(kept[i + 1], '^(%d+) (%d+) (%d+) (.*)$')
    local left = expiry and tonumber(expiry) - now or 0
    if left <= 0 then
      redis.call('HDEL', presence, name)
      changed = true
    elseif name == me then
      said = number .. ' ' .. who
    else
      if left > tonumber(good) then
        note(name, good, number .. ' ' .. who)
        left = tonumber(good)
      end
      longest = math.max(longest, left)
      total = total + tonumber(number)
      all[#all + 1] = who
    end
  end
end

if count > 0 then
  local say = ARGV[7] .. ' ' .. people
  changed = changed or say ~= said
  note(me, ARGV[5], say)
elseif said then
  redis.call('HDEL', presence, me)
  changed = true
end
if changed then
  version = math.max(version + 1, now)  -- a hash that was lost must not count as known
  redis.call(ARGV[2], KEYS[1], me)
end
if total == 0 then
  redis.call('DEL', presence)
  return {version, 0, 0}
end
redis.call('HSET', presence, 'version', string.format('%.0f', version))
-- Not below what another replica still has left.
redis.call('PEXPIRE', presence, longest)

local reply = {version, (known > 0 and not said) and 1 or 0, total}
if version ~= known and total <= limit then
  for _, who in ipairs(all) do
    reply[#reply + 1] = who
  end
end
return reply
