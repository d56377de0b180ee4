"""The Redis scripts: each decides and writes in one step, and can be sent again.

A lease is a hash of epoch, nonce, holder, expires (milliseconds, by the server's clock), life (the server's run id) and lost
(see ``Lease``). It is held until it expires, or until the server is started again: one that crashed may have lost its last
writes, and nobody may go on from what was there before. One that was given back has no expires. Its epoch is never forgotten.
A document is a field of two hashes: its value in one, its version in the other. Arguments that stand for "none" are empty:
versions never are.
"""

_LEASES = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')

local function remaining(key)
  local lease = redis.call('HMGET', key, 'expires', 'life')
  return lease[2] == life and math.max(tonumber(lease[1] or 0) - now, 0) or 0
end

local function is_held(key, epoch, nonce)
  local lease = redis.call('HMGET', key, 'epoch', 'nonce')
  return lease[1] == epoch and lease[2] == nonce and remaining(key) > 0
end

local function milliseconds(value)
  return string.format('%.0f', value)
end
"""

# KEYS: lease. ARGV: nonce, holder, ttl in ms. Returns the epoch and how many were lost, or nil if somebody else holds it.
ACQUIRE = (
    _LEASES
    + """
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'nonce', 'expires', 'lost')
local epoch, lost = tonumber(lease[1] or 0), tonumber(lease[4] or 0)
local held = remaining(KEYS[1]) > 0
if held and lease[2] ~= ARGV[1] then
  return false
end
if not held then
  epoch = epoch + 1
  lost = lost + (lease[3] and 1 or 0)
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'lost', lost, 'nonce', ARGV[1], 'holder', ARGV[2],
  'expires', milliseconds(now + ARGV[3]), 'life', life)
return {epoch, lost}
"""
)

# KEYS: lease. ARGV: epoch, nonce, ttl in ms. Returns 1, or 0 if it is held no more.
RENEW = (
    _LEASES
    + """
if not is_held(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'expires', milliseconds(now + ARGV[3]))
return 1
"""
)

# KEYS: lease. ARGV: epoch, nonce. HDEL also works when the server is out of memory.
RELEASE = (
    _LEASES
    + """
if is_held(KEYS[1], ARGV[1], ARGV[2]) then
  redis.call('HDEL', KEYS[1], 'expires', 'lost')
end
"""
)

# KEYS: lease. Returns holder, epoch and remaining ms, or nil if nobody holds it.
HOLDER = (
    _LEASES
    + """
local left = remaining(KEYS[1])
if left <= 0 then
  return false
end
local lease = redis.call('HMGET', KEYS[1], 'holder', 'epoch')
return {lease[1], tonumber(lease[2]), milliseconds(left)}
"""
)

# KEYS: values, versions, lease of the fence (any key if there is none), then leases to bump.
# ARGV: epoch and nonce of the fence (empty: no fence), then for each write: key, resulting version (empty: delete),
# expected version (empty: must not exist), value. Returns an Outcome's value.
TRANSACT = (
    _LEASES
    + """
local function all_are_at(offset)
  for i = 3, #ARGV, 4 do
    local version = redis.call('HGET', KEYS[2], ARGV[i]) or ''
    if version ~= ARGV[i + offset] then
      return false
    end
  end
  return true
end

if all_are_at(1) then
  return 'already done'
end
if ARGV[1] ~= '' and not is_held(KEYS[3], ARGV[1], ARGV[2]) then
  return 'fenced'
end
if not all_are_at(2) then
  return 'conflict'
end
for i = 3, #ARGV, 4 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 3])
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
if ARGV[1] ~= '' then
  redis.call('HDEL', KEYS[3], 'lost')
end
for i = 4, #KEYS do
  redis.call('HINCRBY', KEYS[i], 'epoch', 1)
  redis.call('HDEL', KEYS[i], 'expires', 'lost')
end
return 'done'
"""
)

# KEYS: values, versions. ARGV: keys of documents. Returns their values and their versions. Not MULTI, which a server that is
# out of memory refuses even for reading and deleting.
READ = """
local values, versions = {}, {}
for i = 1, #ARGV do
  values[i] = redis.call('HGET', KEYS[1], ARGV[i])
  versions[i] = redis.call('HGET', KEYS[2], ARGV[i])
end
return {values, versions}
"""

_FENCE = (
    _LEASES
    + """
if ARGV[1] ~= '' and not is_held(KEYS[1], ARGV[1], ARGV[2]) then
  return
end
"""
)

# KEYS: lease of the fence (any key if there is none), blobs of a scope, scopes. ARGV: epoch and nonce of the fence (empty: no
# fence), scope. Does nothing if the fence is not held.
DROP_SCOPE = (
    _FENCE
    + """
redis.call('UNLINK', KEYS[2])
redis.call('SREM', KEYS[3], ARGV[3])
"""
)

# As DROP_SCOPE, then fields to delete. A scope is listed while it has any.
DROP_BLOBS = (
    _FENCE
    + """
for i = 4, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SREM', KEYS[3], ARGV[3])
end
"""
)
