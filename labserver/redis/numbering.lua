-- Return a room's epoch and newest seq; begin a numbering where there is none.
--
-- A server that did not number the newest message itself was promoted, or came back
-- from its disk: what was numbered after the part that it has is lost, and those
-- numbers may not be given twice. It goes on in an epoch of its own, and keeps where it
-- took over: "before" and "base", the place up to which both epochs say the same.
--
-- The third thing returned is whether somebody was ever told a place in the numbering:
-- nobody can come back to what was said before that.
local function numbered(numbering, history, server, fresh)
  local known = redis.call('HMGET', numbering, 'epoch', 'seq', 'by', 'told')
  local epoch, seq, by = known[1], tonumber(known[2]), known[3]
  if not epoch then
    redis.call('HSET', numbering, 'epoch', fresh, 'seq', 0, 'by', server)
    redis.call('DEL', history)
    return fresh, 0, false
  elseif by ~= server then
    redis.call('HSET', numbering, 'epoch', fresh, 'by', server, 'before', epoch,
      'base', seq)
    return fresh, seq, known[4]
  end
  return epoch, seq, known[4]
end

