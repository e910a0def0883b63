-- The world of a script. Runs once, when a machine is made, with everything the bare language offers and the functions
-- written in Rust; answers what the machine needs to run programs in it.
--
-- What a script sees are proxies: empty tables whose reads go to the real ones and whose writes are errors. Scripts
-- share one machine, so nothing that one of them can reach may be changed by it.
local native, is_for_functions = ...

local pcall, xpcall, error, type, next, rawget, tonumber = pcall, xpcall, error, type, next, rawget, tonumber
local tostring, select, setmetatable, unpack = tostring, select, setmetatable, unpack
local resume, concat, collectgarbage = coroutine.resume, table.concat, collectgarbage
local gsub, floor = string.gsub, math.floor
local unwrapped, stopped, compile, readonly = native.unwrapped, native.stopped, native.compile, native.readonly
local is_stopped, getmetatable, rawset = native.is_stopped, getmetatable, rawset

-- Proxy -> the real table behind it.
local behind = {}

local function proxy_of(real)
  local proxy = {}
  behind[proxy] = real
  native.protect(proxy)
  return setmetatable(proxy, { __index = real, __newindex = readonly, __metatable = false })
end

local function plain(err)
  if type(err) == "userdata" then
    return unwrapped(err)
  end
  if type(err) == "string" then
    -- No place of the sandbox is one of the script's.
    return (gsub(err, "^sandbox:%d+: ", ""))
  end
  return err
end

-- After a protected call that failed. What ends a script for good goes on.
local function caught(ok, ...)
  if ok then
    return ok, ...
  end
  stopped()
  local err = plain((...))
  if type(err) == "table" then
    local text = rawget(err, "err")
    if type(text) == "string" then
      return false, text
    end
  end
  return false, err
end

local function resumed(ok, ...)
  if ok then
    return ok, ...
  end
  stopped()
  return false, plain((...))
end

local function ended(ok, ...)
  if not ok then
    stopped()
  end
  return ok, ...
end

local real = {
  _VERSION = _VERSION,
  assert = assert,
  error = error,
  gcinfo = gcinfo,
  ipairs = ipairs,
  next = next,
  rawequal = rawequal,
  select = select,
  tonumber = tonumber,
  tostring = tostring,
  type = type,
  getmetatable = getmetatable,
  setmetatable = native.setmetatable,
  rawset = native.rawset,
  loadstring = native.loadstring,
}

function real.pcall(...)
  return caught(pcall(...))
end

function real.xpcall(f, handler)
  return ended(xpcall(f, function(err)
    -- The error that stops a script is raised in the hook, and there no hook looks after the handler.
    if is_stopped() then
      return err
    end
    return handler(plain(err))
  end))
end

function real.rawget(t, key)
  return rawget(behind[t] or t, key)
end

function real.pairs(t)
  local shadow = t ~= nil and behind[t]
  if shadow then
    local copy = {}
    for key, value in next, shadow do
      copy[key] = value
    end
    return next, copy, nil
  end
  if type(t) ~= "table" then
    error("bad argument #1 to 'pairs' (table expected, got " .. (t == nil and "nil" or type(t)) .. ")", 2)
  end
  return next, t, nil
end

-- The language's own counts in 32 bits.
function real.unpack(...)
  local t, first, last = ...
  if type(t) ~= "table" then
    error("bad argument #1 to 'unpack' (table expected, got " .. (select("#", ...) == 0 and "no value" or type(t)) .. ")", 2)
  end
  local from = tonumber(first) or 1
  local to = tonumber(last) or #t
  if not (to - from < 7999 and from > -2 ^ 31 and to < 2 ^ 31 - 1 and from < 2 ^ 31 - 1 and to > -2 ^ 31) then
    if to < from then
      return
    end
    error("too many results to unpack", 2)
  end
  -- Each argument takes a place the results could have.
  if last ~= nil then
    return unpack(t, first, last)
  elseif first ~= nil then
    return unpack(t, first)
  end
  return unpack(t)
end

-- The language's own compares and swaps without end where nobody could stop it. The order of equals is the same as there:
-- the pivot is the middle one of the first, the middle and the last. False if `less` is no order.
local function less_than(a, b)
  return a < b
end

local function order(t, low, high, less)
  while low < high do
    local first, last = t[low], t[high]
    if less(last, first) then
      t[low], t[high] = last, first
    end
    if high - low == 1 then
      return true
    end
    local middle = floor((low + high) / 2)
    local pivot = t[middle]
    if less(pivot, t[low]) then
      t[middle], t[low] = t[low], pivot
    elseif less(t[high], pivot) then
      t[middle], t[high] = t[high], pivot
    end
    if high - low == 2 then
      return true
    end
    pivot = t[middle]
    t[middle], t[high - 1] = t[high - 1], pivot
    local left, right = low, high - 1
    while true do
      left = left + 1
      while less(t[left], pivot) do
        if left > high then
          return false
        end
        left = left + 1
      end
      right = right - 1
      while less(pivot, t[right]) do
        if right < low then
          return false
        end
        right = right - 1
      end
      if right < left then
        break
      end
      t[left], t[right] = t[right], t[left]
    end
    t[high - 1], t[left] = t[left], t[high - 1]
    -- The smaller part is done apart, the larger one here: so it never goes deep.
    local ordered
    if left - low < high - left then
      ordered = order(t, low, left - 1, less)
      low = left + 1
    else
      ordered = order(t, left + 1, high, less)
      high = left - 1
    end
    if not ordered then
      return false
    end
  end
  return true
end

function table.sort(...)
  local t, less = ...
  if type(t) ~= "table" then
    error("bad argument #1 to 'sort' (table expected, got " .. (select("#", ...) == 0 and "no value" or type(t)) .. ")", 2)
  end
  if less ~= nil and type(less) ~= "function" then
    error("bad argument #2 to 'sort' (function expected, got " .. type(less) .. ")", 2)
  end
  if not order(t, 1, #t, less or less_than) then
    error("invalid order function for sorting", 2)
  end
end

-- The language's own move elements and call functions where nobody could stop it, as often as a length or a place says;
-- and a table with few elements may have a great length.
local MOVES_AT_ONCE_MAX = 4096
local insert, remove = table.insert, table.remove

local function expected(index, name, what, value, is_given, level)
  local got = is_given and type(value) or "no value"
  error("bad argument #" .. index .. " to '" .. name .. "' (" .. what .. " expected, got " .. got .. ")", level or 3)
end

-- As the language's `int` holds it.
local function int(number)
  number = number < 0 and -floor(-number) or floor(number)
  number = (number + 2 ^ 31) % 2 ^ 32 - 2 ^ 31
  return number == number and number or 0
end

function table.insert(t, ...)
  local count = select("#", ...)
  if type(t) ~= "table" then
    expected(1, "insert", "table", t, t ~= nil or count > 0)
  end
  if count == 1 then
    insert(t, (...))
    return
  elseif count ~= 2 then
    error("wrong number of arguments to 'insert'", 2)
  end
  local place, value = ...
  local at = tonumber(place)
  if not at then
    expected(2, "insert", "number", place, true)
  end
  at = int(at)
  local free = #t + 1
  if free - at <= MOVES_AT_ONCE_MAX then
    insert(t, at, value)
    return
  end
  if getmetatable(t) == nil then
    for index = free, at + 1, -1 do
      t[index] = t[index - 1]
    end
  else
    for index = free, at + 1, -1 do
      rawset(t, index, rawget(t, index - 1))
    end
  end
  rawset(t, at, value)
end

function table.remove(t, ...)
  local count = select("#", ...)
  if type(t) ~= "table" then
    expected(1, "remove", "table", t, t ~= nil or count > 0)
  end
  local place = ...
  if place == nil then
    return remove(t)
  end
  local at = tonumber(place)
  if not at then
    expected(2, "remove", "number", place, true)
  end
  at = int(at)
  local last = #t
  if at < 1 or last - at <= MOVES_AT_ONCE_MAX then
    return remove(t, at)
  end
  local removed = rawget(t, at)
  if getmetatable(t) == nil then
    for index = at, last - 1 do
      t[index] = t[index + 1]
    end
  else
    for index = at, last - 1 do
      rawset(t, index, rawget(t, index + 1))
    end
  end
  rawset(t, last, nil)
  return removed
end

local function check_foreach(name, count, t, f)
  if type(t) ~= "table" then
    expected(1, name, "table", t, count > 0, 4)
  end
  if type(f) ~= "function" then
    expected(2, name, "function", f, count > 1, 4)
  end
end

function table.foreach(...)
  local t, f = ...
  check_foreach("foreach", select("#", ...), t, f)
  for key, value in next, t do
    local result = f(key, value)
    if result ~= nil then
      return result
    end
  end
end

function table.foreachi(...)
  local t, f = ...
  check_foreach("foreachi", select("#", ...), t, f)
  for index = 1, #t do
    local result = f(index, rawget(t, index))
    if result ~= nil then
      return result
    end
  end
end

function real.load(reader, name)
  if type(reader) ~= "function" then
    error("bad argument #1 to 'load' (function expected, got " .. type(reader) .. ")", 2)
  end
  local pieces = {}
  while true do
    local piece = reader()
    if piece == nil or piece == "" then
      break
    end
    if type(piece) ~= "string" then
      return nil, "reader function must return a string"
    end
    pieces[#pieces + 1] = piece
  end
  return compile(concat(pieces), name or "=(load)")
end

-- How the machine collects is the machine's business.
local options = { stop = 0, restart = 0, setpause = 0, setstepmul = 0, collect = 1, count = 1, step = 1 }
function real.collectgarbage(option, size)
  local meaning = options[option or "collect"]
  if meaning == nil then
    error("bad argument #1 to 'collectgarbage' (invalid option '" .. tostring(option) .. "')", 2)
  end
  return meaning == 0 and 0 or collectgarbage(option, tonumber(size))
end

local strings = string
for name, replacement in next, native.string do
  strings[name] = replacement
end
local maths = math
for name, replacement in next, native.math do
  maths[name] = replacement
end
local coroutines = coroutine
function coroutines.resume(...)
  return resumed(resume(...))
end

real.string = proxy_of(strings)
real.math = proxy_of(maths)
real.table = proxy_of(table)
real.coroutine = proxy_of(coroutines)
real.os = proxy_of({ clock = native.clock })
real.bit = proxy_of(native.bit)
real.struct = proxy_of(native.struct)
real.cmsgpack = proxy_of(native.cmsgpack)
real.cjson = proxy_of(native.cjson)
real.redis = proxy_of(native.redis)
real.server = proxy_of(native.server)

-- ("x"):rep(3) finds its methods here.
local of_strings = native.string_metatable
of_strings.__index = real.string
of_strings.__metatable = proxy_of({ __index = real.string })

setmetatable(real, { __index = native.missing })
local globals = {}
behind[globals] = real
native.protect(globals)
local of_globals = { __index = real, __newindex = readonly }
of_globals.__metatable = proxy_of({ __index = real.redis, __newindex = readonly })
setmetatable(globals, of_globals)
real._G = globals

-- Raw writes reach a proxy without asking it (table.insert, say). What they left is gone before the next script.
local function sweep()
  for proxy in next, behind do
    if next(proxy) ~= nil then
      for key in next, proxy do
        proxy[key] = nil
      end
    end
  end
end

-- What a library sees while it is loaded: the server, to register functions with, and nothing else.
local loading
if is_for_functions then
  loading = setmetatable({}, { __index = native.missing })
  for _, name in next, { "redis", "server" } do
    loading[name] = proxy_of(setmetatable(native["loading_" .. name], { __index = native.missing }))
  end
end

local function begin_loading(begins)
  of_globals.__index = begins and loading or real
end

local on_error = native.on_error

local function run_script(program, keys, argv)
  real.KEYS, real.ARGV = keys, argv
  return xpcall(program, on_error)
end

local function run_function(callback, keys, argv)
  return xpcall(function()
    return callback(keys, argv)
  end, on_error)
end

return globals, is_for_functions and run_function or run_script, sweep, begin_loading
