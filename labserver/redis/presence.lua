-- Store the members that one replica has in a room; return those of all replicas.
--
-- KEYS: numbering (the channel has the same name), presence (a hash).
-- ARGV: reign of this server, command that publishes, name of the replica, version of
--       the roster that it knows (0: none), ttl in ms, up to how many people are named,
--       count of this replica's members, and their names as a JSON object.
-- Returns the version, 1 if the replica knew a version but its entry is gone (else 0),
-- and the count of people; then, if the replica does not know this version and they are
-- not too many, their names: a JSON object for each replica.
--
-- For each replica the hash has an entry "expiry ttl count people". Entries that have
-- expired, or cannot be read, are deleted. An expiry is a time of Redis's clock in ms.
-- If the clock was set back, an expiry is further away than its ttl: it is set again.
-- If the clock was set forward, all entries expire: each replica sees that its entry is
-- gone, and waits. A change is published as the name of the replica that made it;
-- unlike the data of messages, it has no space.
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
  version = math.max(version + 1, now)  -- higher than any version of a lost hash
  redis.call(ARGV[2], KEYS[1], me)
end
if total == 0 then
  redis.call('DEL', presence)
  return {version, 0, 0}
end
redis.call('HSET', presence, 'version', string.format('%.0f', version))
-- The hash lives as long as its longest entry.
redis.call('PEXPIRE', presence, longest)

local reply = {version, (known > 0 and not said) and 1 or 0, total}
if version ~= known and total <= limit then
  for _, who in ipairs(all) do
    reply[#reply + 1] = who
  end
end
return reply
