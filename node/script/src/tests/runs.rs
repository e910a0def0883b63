//! What a script asks of its host, and what becomes of the answers.

use crate::testing::{World, eval, evaluated, machine};
use crate::{Invocation, LogLevel, Replication, Resp, Sha};

fn run(script: &str) -> String {
    eval(&mut machine(), &mut World::default(), script)
}

#[test]
fn commands_are_called_and_answered() {
    let (mut machine, mut world) = (machine(), World::default());
    assert_eq!(eval(&mut machine, &mut world, "return redis.call('set', KEYS[1], ARGV[1])"), "+OK\r\n");
    assert_eq!(eval(&mut machine, &mut world, "return redis.call('get', KEYS[1])"), "$2\r\na1\r\n");
    assert_eq!(world.strings.get(&b"k1"[..]).map(Vec::as_slice), Some(&b"a1"[..]));
    assert_eq!(run("return redis.call('get', 'nosuch')"), "$-1\r\n");
}

#[test]
fn an_error_of_a_command_ends_the_script_or_is_a_table() {
    let script = "return redis.call('nosuch')";
    let expected = format!(
        "-ERR Unknown command called from script script: {}, on @user_script:1.\r\n",
        Sha::of(script.as_bytes())
    );
    assert_eq!(run(script), expected);
    assert_eq!(run("return redis.pcall('nosuch')"), "-ERR Unknown command called from script\r\n");
    assert_eq!(run("return redis.pcall('nosuch').err"), "$38\r\nERR Unknown command called from script\r\n");
    // As in Redis, pcall hands the text of such an error on, so that scripts written for older servers find it.
    assert_eq!(
        run("local ok, e = pcall(redis.call, 'nosuch') return {ok, type(e), e}"),
        "*3\r\n$-1\r\n$6\r\nstring\r\n$38\r\nERR Unknown command called from script\r\n"
    );
    assert_eq!(
        run("local ok, e = xpcall(function() redis.call('nosuch') end, function(e) return e.err end) return e"),
        "$38\r\nERR Unknown command called from script\r\n"
    );
}

#[test]
fn replies_of_resp3_become_tables_with_a_meaning() {
    for (bytes, look, expected) in [
        ("%1\\r\\n+a\\r\\n:1\\r\\n", "for k, v in pairs(r.map) do return k.ok .. v end", "$2\r\na1\r\n"),
        ("~2\\r\\n$1\\r\\na\\r\\n$1\\r\\nb\\r\\n", "return {r.set.a, r.set.b}", "*2\r\n:1\r\n:1\r\n"),
        (",1.5\\r\\n", "return tostring(r.double)", "$3\r\n1.5\r\n"),
        (",inf\\r\\n", "return tostring(r.double)", "$3\r\ninf\r\n"),
        ("#t\\r\\n", "return r == true", ":1\r\n"),
        ("_\\r\\n", "return r == nil", ":1\r\n"),
        ("(123\\r\\n", "return r.big_number", "$3\r\n123\r\n"),
        ("=6\\r\\ntxt:hi\\r\\n", "return r.verbatim_string.format .. r.verbatim_string.string", "$5\r\ntxthi\r\n"),
        ("|1\\r\\n+a\\r\\n+b\\r\\n:7\\r\\n", "return r", ":7\r\n"),
        ("*2\\r\\n-ERR x\\r\\n:1\\r\\n", "return r[1].err", "$5\r\nERR x\r\n"),
        ("!5\\r\\nERR x\\r\\n", "return 1", "-ERR x"),
    ] {
        let reply = run(&format!("redis.setresp(3) local r = redis.call('raw', '{bytes}') {look}"));
        assert!(reply.starts_with(expected), "{bytes}: {reply}");
    }
}

#[test]
fn results_are_spelled_for_the_client() {
    for (script, two, three) in [
        ("return nil", "$-1\r\n", "_\r\n"),
        ("return false", "$-1\r\n", "_\r\n"),
        ("return true", ":1\r\n", ":1\r\n"),
        ("redis.setresp(3) return true", ":1\r\n", "#t\r\n"),
        ("redis.setresp(3) return false", ":0\r\n", "#f\r\n"),
        ("return {double = 1.5}", "$3\r\n1.5\r\n", ",1.5\r\n"),
        ("return {map = {a = 1}}", "*2\r\n$1\r\na\r\n:1\r\n", "%1\r\n$1\r\na\r\n:1\r\n"),
        ("return {set = {a = true}}", "*1\r\n$1\r\na\r\n", "~1\r\n$1\r\na\r\n"),
        ("return {big_number = '12'}", "$2\r\n12\r\n", "(12\r\n"),
        ("return {verbatim_string = {format = 'txt', string = 'hi'}}", "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
        ("return {1, 2, 3, 4, 5, 6, err = 'x y'}", "-x y\r\n", "-x y\r\n"),
    ] {
        let (mut machine, mut world) = (machine(), World::default());
        for (client, expected) in [(Resp::Two, two), (Resp::Three, three)] {
            let reply = evaluated(&mut machine, &mut world, script.as_bytes(), client);
            assert_eq!(String::from_utf8_lossy(&reply), expected, "{script}");
        }
    }
}

#[test]
fn bytes_are_kept_as_they_are() {
    let (mut machine, mut world) = (machine(), World::default());
    let all: Vec<u8> = (0..=255).collect();
    let sha = machine.load_script(b"return redis.call('echo', ARGV[1])", false).unwrap();
    let mut out = Vec::new();
    let invocation = Invocation { keys: &[], args: &[&all], client: Resp::Two, ..Invocation::default() };
    machine.run_script(&sha, &invocation, &mut world, &mut out).unwrap();
    assert_eq!(&out[6..262], &all[..]);
}

#[test]
fn the_host_is_told() {
    let (mut machine, mut world) = (machine(), World::default());
    eval(&mut machine, &mut world, "redis.log(redis.LOG_WARNING, 'a', 1, 'b') redis.set_repl(redis.REPL_AOF)");
    assert_eq!(world.log, [(LogLevel::Warning, "a 1 b".to_owned())]);
    assert_eq!(world.replication, Some(Replication { journal: true, replicas: false }));
    assert_eq!(eval(&mut machine, &mut world, "return redis.acl_check_cmd('get', 'k')"), ":1\r\n");
    assert_eq!(eval(&mut machine, &mut world, "return redis.acl_check_cmd('set', 'k', 'v')"), "$-1\r\n");
    assert!(eval(&mut machine, &mut world, "return redis.acl_check_cmd('x')").starts_with("-ERR Invalid command"));
    assert_eq!(eval(&mut machine, &mut world, "return tostring(os.clock())"), "$3\r\n1.5\r\n");
}

#[test]
fn scripts_of_eval_make_room_and_loaded_ones_stay() {
    let mut machine = machine();
    let kept = machine.load_script(b"return 'kept'", true).unwrap();
    let first = machine.load_script(b"return 'first'", false).unwrap();
    for number in 0..600 {
        machine.load_script(format!("return {number}").as_bytes(), false).unwrap();
    }
    assert!(machine.script(&kept).is_some());
    assert!(machine.script(&first).is_none());
    assert_eq!(machine.stats().scripts, 501);
    machine.flush_scripts();
    assert_eq!(machine.stats().scripts, 0);
    assert_eq!(Sha::parse(kept.to_string().to_uppercase().as_bytes()), Some(kept));
    assert_eq!(Sha::parse(b"x"), None);
}

#[test]
fn a_machine_may_move_between_threads() {
    fn moves<T: Send>(_: &T) {}
    moves(&machine());
}

/// `cargo test --release -p keyward-script speed -- --ignored --nocapture`
#[test]
#[ignore = "prints figures and judges nothing: machines differ"]
#[allow(clippy::disallowed_methods, reason = "a measurement takes the time")]
fn speed() {
    let (mut machine, mut world) = (machine(), World::default());
    world.strings.insert(b"k1".to_vec(), b"value".to_vec());
    for (script, calls) in [
        ("return 1", 0),
        ("return redis.call('GET', KEYS[1])", 1),
        ("for i = 1, 100 do redis.call('GET', KEYS[1]) end", 100),
        ("for i = 1, 100 do redis.call('SET', KEYS[1], i) end", 100),
        ("local t = {} for i = 1, 100 do t[i] = i end return t", 0),
        ("return cjson.encode(cjson.decode('{\"a\":[1,2,3],\"b\":{\"c\":\"d\"}}'))", 0),
        ("for i = 1, 100 do local a, b = string.match('key:123', '(%a+):(%d+)') end", 0),
        ("local n = 0 for i = 1, 100000 do n = n + i end return n", 0),
    ] {
        let sha = machine.load_script(script.as_bytes(), false).unwrap();
        let invocation = Invocation { keys: &[b"k1"], args: &[b"a"], client: Resp::Two, ..Invocation::default() };
        let rounds = if script.contains("100000") { 200 } else { 20_000 };
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            let mut out = Vec::with_capacity(256);
            machine.run_script(&sha, &invocation, &mut world, &mut out).unwrap();
        }
        let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds);
        println!("{each:9.2} us  {:6.2} us per call  {script}", if calls > 0 { each / f64::from(calls) } else { 0.0 });
    }
}
