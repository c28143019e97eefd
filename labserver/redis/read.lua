-- Say where a room stands, and what its history keeps after a seq: one page of it.
--
-- KEYS: numbering (a hash), history (a stream).
-- ARGV: run id of this server, command that publishes, epoch to use for a new
--       numbering, numbering ttl in ms, history ttl in ms, the seq after which messages
--       are wanted (-1: none), where in the stream to begin when the newest come first
--       ('': the oldest come first), and how many bytes a page has.
-- Returns epoch, seq, the epoch before and the seq that it came to (or '' and -1), the
-- seq that it came to when reading, then seq and body of each message that is not too
-- old, as many as fit. One is looked at even if it does not fit.
-- The age is by Redis' clock: where that is set back, messages live longer.
local epoch, seq, told = numbered(KEYS[1], KEYS[2], ARGV[1], ARGV[3])
if not told then
  redis.call('HSET', KEYS[1], 'told', 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local old = redis.call('HMGET', KEYS[1], 'before', 'base')
local after, last, room = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local back = last ~= ''
-- When the oldest come first, every message up to there was looked at; when the newest
-- do, every one above.
local reply = {epoch, seq, old[1] or '', tonumber(old[2] or -1), back and after or seq}
if after < 0 then
  return reply
end
local now = redis.call('TIME')
local oldest = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[5])
local first = string.format('%.0f-0', after + 1)
local looked = false
while true do
  -- A few at a time: what does not fit is not even read.
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
      return reply  -- no whole story begins before it
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
