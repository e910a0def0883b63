//! Scripts that take too much: time, memory, depth. Each ends with an error, and the next one runs.

use crate::testing::{World, eval, machine};

/// Runs on a thread as small as a server's, and then something ordinary.
fn survives(script: &'static str) -> String {
    std::thread::Builder::new()
        .stack_size(2 * 1024 * 1024)
        .spawn(move || {
            let (mut machine, mut world) = (machine(), World { patience: Some(20), ..World::default() });
            let reply = eval(&mut machine, &mut world, script);
            let mut world = World::default();
            assert_eq!(
                eval(&mut machine, &mut world, "return redis.call('echo', 'next')"),
                "$4\r\nnext\r\n",
                "{script}"
            );
            reply
        })
        .expect("a thread")
        .join()
        .unwrap_or_else(|_| panic!("{script} panicked"))
}

#[test]
fn a_script_that_does_not_end_is_stopped() {
    for script in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "local function f() while true do pcall(f) end end f()",
        "while true do xpcall(function() while true do end end, function(e) return e end) end",
        "xpcall(function() while true do end end, function() while true do end end)",
        "while true do xpcall(error, function() while true do end end) end",
        "local function spin() while true do end end local function f() xpcall(spin, f) spin() end f()",
        "xpcall(function() while true do end end, function() coroutine.wrap(function() while true do end end)() end)",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "local function f() while true do local c = coroutine.wrap(f) pcall(c) end end f()",
        "repeat local ok, e = pcall(string.gsub, 'x', 'x', function() while true do end end) until false",
        "return string.find(string.rep('a', 200), string.rep('a-', 100) .. 'b')",
        "pcall(string.find, string.rep('a', 200), string.rep('a-', 100) .. 'b') while true do end",
        "load(function() return ' ' end)",
        "local t = setmetatable({}, {__index = function(t, k) while true do end end}) return t.x",
        "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function() while true do end end)",
        "xpcall(function() while true do end end, function() while true do end end)",
        "xpcall(function() error('x') end, function() while true do end end)",
        "local function f() while true do end end xpcall(f, function() xpcall(f, f) f() end)",
        "local function f() while true do end end xpcall(f, function() coroutine.wrap(f)() f() end)",
        "local function f() while true do end end coroutine.wrap(function() xpcall(f, f) end)()",
        "local function f() while true do end end while true do xpcall(coroutine.wrap(f), f) end",
        "local function f() while true do end end local e = setmetatable({}, {__tostring = f, __gc = f}) \
         string.gsub('x', 'x', function() error(e) end)",
        "local function f() while true do end end string.gsub('x', 'x', function() xpcall(f, f) end)",
        "table.insert({}, -2e9, 1)",
        "table.insert(setmetatable({}, {}), -2e9, 1)",
        "local t = {} for k = 29, 0, -1 do t[2 ^ k] = 1 end table.insert(t, 1, 1)",
        "local t = {} for k = 29, 0, -1 do t[2 ^ k] = 1 end table.remove(t, 1)",
        "local t = {} for k = 29, 0, -1 do t[2 ^ k] = 1 end table.foreachi(t, math.randomseed)",
    ] {
        let reply = survives(script);
        assert!(reply.starts_with("-ERR stopped") || reply.contains("not enough memory"), "{script}: {reply}");
    }
}

#[test]
fn memory_is_an_error_and_not_the_end() {
    for script in [
        "return string.rep('x', 1e9)",
        "return ('x'):rep(2147483647)",
        "local t = {} while true do t[#t + 1] = {} end",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} for i = 1, 1e9 do t[i] = i end",
        "local t = {} for i = 1, 10000 do t[i] = string.rep('x', 10000) .. i end return table.concat(t)",
        "local t = {} while true do t[#t + 1] = coroutine.create(function() end) end",
        "return string.gsub(string.rep('x', 1000000), 'x', string.rep('y', 10000))",
        "return cjson.encode({string.rep('\\1', 9000000)})",
        "return redis.call('echo', string.rep('x', 1e8))",
        "local t = {} for i = 1, 1000000 do t[i] = 'x' .. i end return cmsgpack.pack(t)",
        "return struct.pack('c500000000', 'x')",
        "return loadstring('return {' .. string.rep('1,', 4000000) .. '}')",
    ] {
        let reply = survives(script);
        assert!(reply.starts_with('-') || reply.starts_with("$-1"), "{script}: {}", &reply[..reply.len().min(200)]);
    }
}

#[test]
fn depth_is_bounded() {
    for script in [
        "local function f() return f() + 1 end return f()",
        "local function f() return pcall(f) end return f()",
        "local t = {} for i = 1, 100000 do t = {t} end return t",
        "local t = {} t[1] = t return t",
        "local t = {} t.map = t return t",
        "local t = {} t[1] = t return cjson.encode(t)",
        "local t = {} t[1] = t return cmsgpack.pack(t)",
        "return cjson.decode(string.rep('[', 100000))",
        "cjson.decode_max_depth(1000000) return cjson.decode(string.rep('[', 100000))",
        "cjson.encode_max_depth(1000000) local t = {} t[1] = t return cjson.encode(t)",
        "return cmsgpack.unpack(string.rep('\\145', 100000))",
        "return string.find(string.rep('a', 100000), string.rep('a?', 100000))",
        "return string.find(string.rep('a', 10000), string.rep('(a', 10000))",
        "return string.find(string.rep('a', 300000), string.rep('a-', 100000) .. 'b')",
        "return loadstring('return ' .. string.rep('(', 100000))",
        "return loadstring('return ' .. string.rep('{', 100000))",
        "return loadstring(string.rep('do ', 100000))",
        "return loadstring('return ' .. string.rep('a..', 100000) .. 'a')",
        "return loadstring('return ' .. string.rep('-', 100000) .. '1')",
        "local function f(s) return (s:gsub('x', f)) end return f('x')",
        "local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x",
        "local t = {} setmetatable(t, {__index = function(t, k) return t[k] end}) return t.x",
        "local mt = {} mt.__call = setmetatable({}, mt) return setmetatable({}, mt)()",
        "local mt = {__tostring = function(t) return tostring(t) end} return tostring(setmetatable({}, mt))",
        "local function f() return coroutine.wrap(f)() end return f()",
        "local t = {} for i = 1, 100 do t[i] = i end table.sort(t, function(a, b) return true end) return 1",
        "local t = {3, 2, 'x'} table.sort(t) return 1",
        "return select('#', string.byte(string.rep('x', 1000000), 1, -1))",
        "return string.char(unpack({}, 1, 7999))",
        "return {cmsgpack.unpack(string.rep('\\1', 100000))}",
        "return {struct.unpack(string.rep('b', 100000), string.rep('x', 100000))}",
        "return redis.call('raw', string.rep('*1\\r\\n', 100000) .. ':1\\r\\n')",
        "return redis.call('raw', '*1000000000\\r\\n')",
        "return redis.call('raw', '$5\\r\\nab')",
        "return redis.call('raw', '')",
    ] {
        survives(script);
    }
    assert!(survives("local t = {} t[1] = t return t").ends_with("-ERR reached lua stack limit\r\n"));
    assert!(survives("local function f() return f() + 1 end return f()").contains("stack overflow"));
}

#[test]
fn a_broken_reply_is_an_error() {
    for bytes in ["*1000000000\\r\\n", "$5\\r\\nab", "", "?", ":x\\r\\n", "*1\\r\\n"] {
        let (mut machine, mut world) = (machine(), World::default());
        let reply = eval(&mut machine, &mut world, &format!("return redis.call('raw', '{bytes}')"));
        assert!(reply.contains("the reply of the command is broken"), "{bytes}: {reply}");
    }
}

#[test]
fn elements_of_long_tables_move_as_those_of_short_ones_do() {
    let eval = |script: &str| {
        let (mut machine, mut world) = (machine(), World::default());
        eval(&mut machine, &mut world, script)
    };
    for metatable in ["nil", "{__index = error, __newindex = error}"] {
        for length in [10, 20_000] {
            let reply = eval(&format!(
                "local t = {{}} for i = 1, {length} do t[i] = i end setmetatable(t, {metatable}) \
                 table.insert(t, 2, 'new') \
                 local removed = {{table.remove(t, 1), table.remove(t, 1), table.remove(t, 2), table.remove(t)}} \
                 for i = 3, #t do assert(t[i] == i + 2) end \
                 table.insert(t, '1.5', 'x') table.insert(t, 2 ^ 32 + 1, 'y') table.insert(t, 0, 'z') \
                 return {{removed[1], removed[2], removed[3], removed[4] - {length}, rawget(t, 0), \
                          rawget(t, 1) == nil and 1, t[2], t[3], t[4], t[{length}] - {length}, \
                          table.remove(t, -3e8) == nil and 1}}"
            ));
            assert_eq!(
                reply.replace("\r\n", " "),
                "*11 :1 $3 new :3 :0 $1 z :1 $1 y $1 x :2 :-1 :1 ",
                "{metatable} {length}"
            );
        }
    }
    for (call, text) in [
        ("insert()", "bad argument #1 to 'insert' (table expected, got no value)"),
        ("insert(nil, 1)", "bad argument #1 to 'insert' (table expected, got nil)"),
        ("insert({})", "wrong number of arguments to 'insert'"),
        ("insert({}, 1, 2, 3)", "wrong number of arguments to 'insert'"),
        ("insert({}, 'x', 2)", "bad argument #2 to 'insert' (number expected, got string)"),
        ("remove('x')", "bad argument #1 to 'remove' (table expected, got string)"),
        ("remove({}, {})", "bad argument #2 to 'remove' (number expected, got table)"),
        ("foreach()", "bad argument #1 to 'foreach' (table expected, got no value)"),
        ("foreachi({})", "bad argument #2 to 'foreachi' (function expected, got no value)"),
    ] {
        let reply = eval(&format!("table.{call}"));
        assert!(reply.contains(&format!("user_script:1: {text}")), "{call}: {reply}");
    }
    let sum = "local n = 0 local found = table.foreach{i}({{1, 2, 3}}, function(k, v) n = n + k * v return v == 3 and 7 or nil end) return {{n, found}}";
    for kind in ["", "i"] {
        assert_eq!(eval(&sum.replace("{i}", kind).replace("{{", "{").replace("}}", "}")), "*2\r\n:14\r\n:7\r\n");
    }
}
