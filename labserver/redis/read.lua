-- Say where a room stands, and what its history keeps after a seq.
--
-- KEYS: numbering (a hash), history (a stream).
-- ARGV: run id of this server, command that publishes, epoch to use for a new
--       numbering, numbering ttl in ms, history ttl in ms, the seq after which messages
--       are wanted (-1: none), and how many bytes of them at most.
-- Returns epoch, seq, the epoch before and the seq that it came to (or '' and -1), then
-- seq and body of each message that is not too old, oldest first, as many as fit.
local epoch, seq, told = numbered(KEYS[1], KEYS[2], ARGV[1], ARGV[3])
if not told then
  redis.call('HSET', KEYS[1], 'told', 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local old = redis.call('HMGET', KEYS[1], 'before', 'base')
local reply = {epoch, seq, old[1] or '', tonumber(old[2] or -1)}
local after, room = tonumber(ARGV[6]), tonumber(ARGV[7])
if after < 0 then
  return reply
end
local now = redis.call('TIME')
local oldest = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[5])
while room > 0 do
  -- In pages: what does not fit is not even read.
  local start = string.format('%.0f-0', after + 1)
  local page = redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', 50)
  for _, entry in ipairs(page) do
    after = tonumber(string.match(entry[1], '^%d+'))
    local body = entry[2][4]
    room = room - #body
    if room < 0 then
      return reply
    end
    if tonumber(entry[2][2]) >= oldest then
      reply[#reply + 1] = after
      reply[#reply + 1] = body
    end
  end
  if #page < 50 then
    return reply
  end
end
return reply
