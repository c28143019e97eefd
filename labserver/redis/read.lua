-- Return a room's position, and one page of its history after a seq.
--
-- KEYS: numbering (a hash), history (a stream).
-- ARGV: those of numbering.lua, then numbering ttl in ms, history ttl in ms, the seq
--       after which messages are wanted (-1: none), the stream ID at which to start
--       backwards, newest first ('': forwards, oldest first), and the bytes of a page.
-- Returns epoch, seq, the epoch before and the last seq that both share (or '' and -1),
-- the seq at which the reading stopped, then seq and body of each message that is not
-- too old, as many as fit. At least one message is read, even if it does not fit.
-- The age is by Redis's clock: if that is set back, messages live longer.
local epoch, seq, told = numbered()
if not told then
  redis.call('HSET', KEYS[1], 'told', 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
local old = redis.call('HMGET', KEYS[1], 'before', 'base')
local after, last, room = tonumber(ARGV[8]), ARGV[9], tonumber(ARGV[10])
local back = last ~= ''
-- The fifth result: forwards, every message up to it was read; backwards, every message
-- above it.
local reply = {epoch, seq, old[1] or '', tonumber(old[2] or -1), back and after or seq}
if after < 0 then
  return reply
end
local now = redis.call('TIME')
local oldest = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[7])
local first = string.format('%.0f-0', after + 1)
local looked = false
while true do
  -- A few at a time, so that few messages are read that do not fit.
  local some
  if back then
    some = redis.call('XREVRANGE', KEYS[2], last, first, 'COUNT', 16)
  else
    some = redis.call('XRANGE', KEYS[2], first, '+', 'COUNT', 16)
  end
  for _, entry in ipairs(some) do
    local number = tonumber(string.match(entry[1], '^%d+'))
    local body, young = entry[2][4], tonumber(entry[2][2]) >= oldest
    if back and not young then
      return reply  -- a replay cannot skip it, so older messages are of no use
    end
    room = room - #body
    if room < 0 and looked then
      reply[5] = back and number or number - 1
      return reply
    end
    looked = true
    if young then
      reply[#reply + 1] = number
      reply[#reply + 1] = body
    end
    first = back and first or string.format('%.0f-0', number + 1)
    last = back and string.format('%.0f-0', number) or last
  end
  if #some < 16 then
    return reply
  end
end
