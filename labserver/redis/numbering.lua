-- Return a room's epoch and its newest seq; begin a numbering if there is none.
--
-- A Redis that did not number the newest message itself, in its present reign, was
-- promoted, or restored from its disk. It may lack later messages, and their numbers
-- must not be used again. So it starts a new epoch, and stores the old epoch ("before")
-- and the seq up to which both epochs have the same messages ("base").
--
-- The third result is true if a client was ever told a position in the numbering.
-- Before that, no client can come back, and the room keeps no history.
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

