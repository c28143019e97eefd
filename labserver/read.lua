-- Say where a room stands, and what its history keeps after a seq.
--
-- KEYS: numbering (a hash), history (a stream).
-- ARGV: epoch to use if there is none, numbering ttl in ms, history ttl in ms,
--       the seq after which messages are wanted (-1: none).
-- Returns epoch, seq, then seq and body of each message that is not too old.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'seq', 0)
  redis.call('DEL', KEYS[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local reply = {epoch, tonumber(redis.call('HGET', KEYS[1], 'seq'))}
local after = tonumber(ARGV[4])
if after >= 0 then
  local now = redis.call('TIME')
  local oldest = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[3])
  local start = string.format('%.0f-0', after + 1)
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], start, '+')) do
    if tonumber(entry[2][2]) >= oldest then
      reply[#reply + 1] = tonumber(string.match(entry[1], '^%d+'))
      reply[#reply + 1] = entry[2][4]
    end
  end
end
return reply
