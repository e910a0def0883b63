//! What native functions take for a script: their memory is the script's, and they can be stopped.

use crate::testing::{World, eval, machine};
use crate::{Invocation, Limits, Machine, Outcome, Resp};

/// A table that holds one megabyte a thousand times.
const SHARED: &str = "local s = string.rep('x', 1e6) local t = {} for i = 1, 1000 do t[i] = s end ";

fn said(script: &str) -> String {
    let (mut machine, mut world) = (machine(), World { patience: Some(100_000), ..World::default() });
    let reply = eval(&mut machine, &mut world, script);
    assert_eq!(eval(&mut machine, &mut World::default(), "return 7"), ":7\r\n", "{script}");
    reply
}

#[test]
fn what_a_writer_makes_of_shared_texts_is_bounded_by_the_memory_of_the_script() {
    for rest in [
        "return #cmsgpack.pack(t)",
        "return #cmsgpack.pack(unpack(t))",
        "return #cjson.encode(t)",
        "return #struct.pack(string.rep('s', 1000), unpack(t))",
        "return #string.gsub('aaaa', 'a', string.rep(s, 10))",
        "return #string.gsub(s, '^.*$', string.rep('%0', 1000))",
        "return #string.gsub(string.rep('a', 1000), 'a', function() return s end)",
        "return #table.concat(t)",
        "return #string.format(string.rep('%s', 1000), unpack(t))",
    ] {
        let reply = said(&format!("{SHARED}{rest}"));
        assert!(reply.contains("not enough memory"), "{rest}: {}", &reply[..reply.len().min(200)]);
    }
}

#[test]
fn memory_of_writers_within_writers_adds_up() {
    // Each level has written its megabyte before the next begins.
    let script = "local s = string.rep('y', 1e6) .. 'x' local function f() return (s:gsub('x', f)) end return #f()";
    assert!(said(script).contains("not enough memory"));
    // And every level of a table within itself holds all its pairs.
    let script = "local t = {} for i = 1, 20000 do t['k' .. i] = i end t.t = t return #cjson.encode(t)";
    let mut machine = Machine::new(Limits { memory_bytes_max: 8 * 1024 * 1024 });
    let reply = eval(&mut machine, &mut World::default(), script);
    // What the language holds of them may come to its end first.
    assert!(reply.contains("not enough memory") || reply.contains("out of Lua stack"), "{reply}");
}

#[test]
fn a_writer_gives_its_memory_back() {
    let script = "local s = string.rep('x', 1e6)
        for i = 1, 200 do
            assert(#cmsgpack.pack(s) > 1e6 and #cjson.encode(s) > 1e6 and #struct.pack('s', s) > 1e6)
            pcall(cjson.encode, {s, pcall})
            redis.call('echo', s)
        end
        return 1";
    assert_eq!(said(script), ":1\r\n");
}

#[test]
fn the_arguments_of_a_call_are_bounded_together() {
    let reply = said(&format!("{SHARED}return redis.pcall('exists', unpack(t))"));
    assert!(reply.starts_with("-ERR the arguments are longer than client-query-buffer-limit"), "{reply}");
    let reply = said(&format!("{SHARED}return tostring(redis.acl_check_cmd('set', unpack(t)))"));
    assert!(reply.starts_with("-ERR the arguments are longer than client-query-buffer-limit"), "{reply}");
    assert_eq!(said(&format!("{SHARED}redis.log(redis.LOG_WARNING, unpack(t)) return 1")), ":1\r\n");

    let mut machine = machine();
    let mut call = |bytes: usize| {
        let script = format!("return #redis.call('echo', string.rep('x', {bytes}))");
        let sha = machine.load_script(script.as_bytes(), false).expect("it compiles");
        let invocation = Invocation { request_bytes_max: 1000, ..Invocation::default() };
        let mut out = Vec::new();
        machine.run_script(&sha, &invocation, &mut World::default(), &mut out);
        out
    };
    assert_eq!(call(996), b":996\r\n");
    assert!(call(997).starts_with(b"-ERR the arguments are longer"));
}

fn written(machine: &mut Machine, script: &str, reply_bytes_max: usize, client: Resp) -> (Option<Outcome>, Vec<u8>) {
    let sha = machine.load_script(script.as_bytes(), false).expect("it compiles");
    let invocation = Invocation { reply_bytes_max, client, ..Invocation::default() };
    let mut out = b"before".to_vec();
    let mut world = World { patience: Some(1000), ..World::default() };
    let outcome = machine.run_script(&sha, &invocation, &mut world, &mut out);
    (outcome, out.split_off(6))
}

#[test]
fn a_result_is_measured_before_it_is_written() {
    let mut machine = machine();
    for (script, length) in [
        ("return 'abc'", 9),
        ("return {'abc', 'abc'}", 22),
        ("return {ok = 'abc'}", 6),
        ("return {map = {a = 1}}", 15),
        ("return {double = 1.5}", 9),
    ] {
        let (outcome, reply) = written(&mut machine, script, length, Resp::Two);
        assert_eq!((outcome, reply.len()), (Some(Outcome::Returned), length), "{script}");
        let (outcome, reply) = written(&mut machine, script, length - 4, Resp::Two);
        assert_eq!((outcome, reply.len()), (Some(Outcome::TooLong), 0), "{script}");
    }
    let script = format!("{SHARED}return t");
    assert_eq!(written(&mut machine, &script, 10_000_000, Resp::Three).0, Some(Outcome::TooLong));
    let nested = "local a = {} for i = 1, 200 do a = {a, a} end return a";
    assert_eq!(written(&mut machine, nested, 1_000_000, Resp::Two).0, Some(Outcome::TooLong));
}

#[test]
fn a_native_loop_can_be_stopped() {
    for script in [
        "cjson.encode_sparse_array(true, 0, 0) return #cjson.encode({[1e9] = 1})",
        "local a = {} for i = 1, 30 do a = {a, a} end return #cjson.encode(a)",
        "local a = {} for i = 1, 30 do a = {a, a} end return #cmsgpack.pack(a)",
        "local a = {} for i = 1, 30 do a = {a, a} end return a",
        "local s = string.rep('[1],', 1e5) return #cjson.decode('[' .. s .. '1]')",
        "local s = string.rep('\\1', 7000) while true do cmsgpack.unpack(s) end",
        "local s = string.rep('x', 1e6) while true do redis.sha1hex(s) end",
        "local s = string.rep('x', 1e6) while true do redis.call('echo', s) end",
        "local s = string.rep('x', 1e6) while true do pcall(string.rep, s, 1e3) end",
        "local s = string.rep('x', 3e5) return s:find(string.rep('x', 1e5) .. 'y', 1, true)",
        "local s = string.rep('x', 3e5) return s:find('^(x*)%1y')",
        "local s = string.rep('x', 3e5) return s:find('[' .. string.rep('a', 1e5) .. ']')",
        "local s, t = string.rep('x', 1e6), {} for i = 1, 1000 do t[i] = s end table.sort(t)",
        "local s = string.rep('x', 1e6) while true do local l = s:upper() end",
    ] {
        let mut world = World { patience: Some(8), ..World::default() };
        let reply = eval(&mut machine(), &mut world, script);
        assert!(reply.starts_with("-ERR stopped"), "{script}: {}", &reply[..reply.len().min(200)]);
    }
}

#[test]
fn sorting_puts_in_order_and_says_what_is_wrong() {
    for (script, reply) in [
        ("local t = {3, 1, 2} table.sort(t) return table.concat(t, ',')", "$5\r\n1,2,3\r\n"),
        ("local t = {} table.sort(t) return #t", ":0\r\n"),
        ("return select('#', table.sort({1}))", ":0\r\n"),
        ("return {pcall(table.sort, {3, 2, 'x'})}", "*2\r\n$-1\r\n$37\r\nattempt to compare string with number\r\n"),
        (
            "local t = {'b', 'a'} table.sort(t, function(a, b) return a > b end) return t",
            "*2\r\n$1\r\nb\r\n$1\r\na\r\n",
        ),
    ] {
        assert_eq!(said(script), reply, "{script}");
    }
    // Equals come in the order they have with Valkey.
    let script = "local t = {} for i = 1, 100 do t[i] = {i % 7, i} end
        table.sort(t, function(a, b) return a[1] < b[1] end)
        local r = {} for i = 1, 100 do r[i] = t[i][2] end return table.concat(r, ',')";
    let order = "28,56,14,70,49,21,42,35,77,63,7,91,84,98,92,78,36,43,85,99,64,71,29,57,1,50,15,22,8,93,16,58,51,65,9,\
        72,86,79,44,100,23,37,30,2,45,73,94,10,87,59,24,52,66,38,3,80,31,17,67,11,32,88,60,46,81,39,25,95,4,53,74,18,5,\
        82,89,12,68,47,19,96,75,54,40,61,26,33,90,97,13,83,20,41,34,6,48,62,55,76,69,27";
    assert_eq!(said(script), format!("${}\r\n{order}\r\n", order.len()));
    let all = "local t = {} for i = 1, 5000 do t[i] = (i * 7919) % 5003 end table.sort(t)
        for i = 2, #t do if t[i] < t[i - 1] then return i end end return 'sorted'";
    assert_eq!(said(all), "$6\r\nsorted\r\n");
    assert!(said("table.sort({3, 2, 'x'}) return 1").starts_with("-ERR attempt to compare string with number script"));
    for script in [
        "table.sort(5)",
        "table.sort({1}, 5)",
        "local t = {} for i = 1, 9 do t[i] = i end table.sort(t, function() return true end)",
    ] {
        assert!(!said(script).contains("sandbox"), "{script}");
    }
}
