//! Libraries and their functions.

use crate::testing::{MEMORY_BYTES_MAX, World, machine};
use crate::{Invocation, Machine, Resp, RestorePolicy};

const LIBRARY: &str = "#!lua name=mylib
local calls = 0
redis.register_function{function_name = 'f', callback = function(keys, args)
  return {keys, args}
end, flags = {'no-writes', 'allow-stale'}, description = 'the f'}
redis.register_function('Set', function(keys, args) return redis.call('set', keys[1], args[1]) end)
redis.register_function('late', function() redis.register_function('z', function() end) end)
local lib = redis
redis.register_function('kept', function() lib.register_function('z', function() end) end)
redis.register_function('fail', function() error('x') end)
redis.register_function('globals', function() return KEYS end)";

fn load(machine: &mut Machine, code: &str) -> Result<String, String> {
    machine.load_library(code.as_bytes(), false, &mut World { patience: Some(50), ..World::default() })
}

fn call(machine: &mut Machine, world: &mut World, name: &str) -> Option<String> {
    let mut out = Vec::new();
    let invocation = Invocation { keys: &[b"k"], args: &[b"a", b"b"], client: Resp::Two, ..Invocation::default() };
    let _ = machine.load_waiting(Some(name.as_bytes()), || Some(World::default()));
    machine.run_function(name.as_bytes(), &invocation, world, &mut out)?;
    Some(String::from_utf8_lossy(&out).into_owned())
}

#[test]
fn a_library_is_loaded_and_its_functions_called() {
    let (mut machine, mut world) = (machine(), World::default());
    assert_eq!(load(&mut machine, LIBRARY).as_deref(), Ok("mylib"));
    let mut call = |name: &str| call(&mut machine, &mut world, name);
    assert_eq!(call("f").as_deref(), Some("*2\r\n*1\r\n$1\r\nk\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n"));
    assert_eq!(call("SET").as_deref(), Some("+OK\r\n"));
    assert_eq!(call("nosuch"), None);
    let late = call("late").unwrap();
    assert!(late.contains("attempt to call field 'register_function' (a nil value)"), "{late}");
    let kept = call("kept").unwrap();
    assert!(kept.starts_with("-ERR redis.register_function can only be called on FUNCTION LOAD command"), "{kept}");
    assert_eq!(call("fail").as_deref(), Some("-ERR user_function:10: x script: fail, on @user_function:10.\r\n"));
    assert!(call("globals").unwrap().contains("nonexistent global variable 'KEYS'"));
    let f = machine.function(b"F").unwrap();
    assert_eq!(f.flags.names().collect::<Vec<_>>(), ["no-writes", "allow-stale"]);
    assert_eq!(f.description.as_deref(), Some("the f"));
    assert_eq!((machine.stats().libraries, machine.stats().functions), (1, 6));
}

#[test]
fn wrong_libraries_say_what_is_wrong() {
    let names = "ERR Function names can only contain letters, numbers, or underscores(_) and must be at least one character long";
    for (code, error) in [
        ("return 1", "ERR No functions registered"),
        ("x = =", "ERR Error compiling function: user_function:2: unexpected symbol near '='"),
        ("x = 1", "ERR Error registering functions: ERR user_function:2: Attempt to modify a readonly table"),
        (
            "redis.call('ping')",
            "ERR Error registering functions: ERR user_function:2: Script attempted to access nonexistent global variable 'call'",
        ),
        (
            "server.register_function('f')",
            "ERR Error registering functions: ERR calling server.register_function with a single argument is only applicable to Lua table (representing named arguments).",
        ),
        (
            "redis.register_function('f')",
            "ERR Error registering functions: ERR calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).",
        ),
        (
            "redis.register_function()",
            "ERR Error registering functions: ERR wrong number of arguments to redis.register_function",
        ),
        (
            "redis.register_function('f', 1)",
            "ERR Error registering functions: ERR second argument to redis.register_function must be a function",
        ),
        (
            "redis.register_function({}, print)",
            "ERR Error registering functions: ERR user_function:2: Script attempted to access nonexistent global variable 'print'",
        ),
        (
            "redis.register_function({}, function() end)",
            "ERR Error registering functions: ERR first argument to redis.register_function must be a string",
        ),
        ("redis.register_function('a-b', function() end)", names),
        ("redis.register_function('', function() end)", names),
        (
            "redis.register_function({})",
            "ERR Error registering functions: ERR redis.register_function must get a function name argument",
        ),
        (
            "redis.register_function({function_name = 'f'})",
            "ERR Error registering functions: ERR redis.register_function must get a callback argument",
        ),
        (
            "redis.register_function({function_name = 'f', callback = 1})",
            "ERR Error registering functions: ERR callback argument given to redis.register_function must be a function",
        ),
        (
            "redis.register_function({function_name = 'f', callback = function() end, foo = 1})",
            "ERR Error registering functions: ERR unknown argument given to redis.register_function",
        ),
        (
            "redis.register_function({function_name = 'f', callback = function() end, flags = 1})",
            "ERR Error registering functions: ERR flags argument to redis.register_function must be a table representing function flags",
        ),
        (
            "redis.register_function({function_name = 'f', callback = function() end, flags = {'x'}})",
            "ERR Error registering functions: ERR unknown flag given",
        ),
        (
            "redis.register_function('f', function() end) redis.register_function('f', function() end)",
            "ERR Function already exists in the library",
        ),
        ("while true do end", "ERR Error registering functions: ERR stopped"),
        (
            "error('hi')",
            "ERR Error registering functions: ERR user_function:2: Script attempted to access nonexistent global variable 'error'",
        ),
    ] {
        let mut machine = machine();
        assert_eq!(load(&mut machine, &format!("#!lua name=mylib\n{code}")), Err(error.to_owned()), "{code}");
        assert_eq!(machine.stats().libraries, 0);
    }
}

#[test]
fn names_are_taken_once() {
    let mut machine = machine();
    let one = |name: &str, function: &str| {
        format!("#!lua name={name}\nredis.register_function('{function}', function() return '{name}' end)")
    };
    load(&mut machine, &one("a", "f")).unwrap();
    assert_eq!(load(&mut machine, &one("a", "g")), Err("ERR Library 'a' already exists".to_owned()));
    assert_eq!(load(&mut machine, &one("b", "F")), Err("ERR Function F already exists".to_owned()));
    let replaced = machine.load_library(one("a", "h").as_bytes(), true, &mut World::default());
    assert_eq!(replaced.as_deref(), Ok("a"));
    assert!(machine.function(b"f").is_none() && machine.function(b"h").is_some());
    // A replacement that fails leaves what there was.
    assert!(machine.load_library(b"#!lua name=a\nerror('x')", true, &mut World::default()).is_err());
    assert!(machine.function(b"h").is_some());
    assert!(machine.delete_library(b"a") && !machine.delete_library(b"a"));
    assert!(machine.function(b"h").is_none());
}

#[test]
fn libraries_are_restored_all_or_none() {
    let mut machine = machine();
    let code = |name: &str, function: &str| {
        format!("#!lua name={name}\nredis.register_function('{function}', function() return 1 end)").into_bytes()
    };
    let mut world = World::default();
    machine.load_library(&code("a", "f"), false, &mut world).unwrap();
    let both = [code("b", "g"), code("a", "f")];
    assert_eq!(
        machine.restore(&both, RestorePolicy::Append, &mut world),
        Err("ERR Library a already exists".to_owned())
    );
    assert_eq!(machine.stats().libraries, 1);
    assert_eq!(machine.restore(&both, RestorePolicy::Replace, &mut world), Ok(()));
    assert_eq!(machine.stats().libraries, 2);
    assert_eq!(machine.restore(&[code("c", "g")], RestorePolicy::Flush, &mut world), Ok(()));
    assert_eq!(machine.libraries().map(|library| library.name.as_str()).collect::<Vec<_>>(), ["c"]);
    machine.flush_libraries();
    assert_eq!(machine.stats().functions, 0);
}

#[test]
fn a_function_that_took_too_much_is_there_afterwards() {
    let (mut machine, mut world) = (machine(), World::default());
    let hog = "#!lua name=hog\nlocal kept = {}\nredis.register_function('hog', function() \
               while true do kept[#kept + 1] = {} end end)\nredis.register_function('small', function() return 1 end)";
    load(&mut machine, hog).unwrap();
    assert!(call(&mut machine, &mut world, "hog").unwrap().contains("not enough memory"));
    assert_eq!(call(&mut machine, &mut world, "small").as_deref(), Some(":1\r\n"));
}

#[test]
fn a_library_that_leaves_no_room_is_refused_and_the_others_stay() {
    let (mut machine, mut world) = (machine(), World::default());
    let half = MEMORY_BYTES_MAX / 2;
    assert_eq!(load(&mut machine, LIBRARY).as_deref(), Ok("mylib"));
    let hog = format!(
        "#!lua name=hog\nlocal kept = ('x'):rep({half})\nredis.register_function('hog', function() return #kept end)"
    );
    let refused = load(&mut machine, &hog);
    assert_eq!(refused, Err("ERR Error registering functions: not enough memory".to_owned()));
    assert!(machine.lacks(b"f"), "its state went");
    assert_eq!(machine.load_waiting(Some(b"f"), || Some(World::default())), Ok(()));
    assert!(call(&mut machine, &mut world, "f").unwrap().starts_with("*2"));
    assert_eq!(machine.codes().len(), 1);
}

#[test]
fn what_was_loaded_elsewhere_waits_until_it_is_needed() {
    let (mut machine, mut world) = (machine(), World::default());
    let code = |name: &str, body: &str| format!("#!lua name={name}\n{body}");
    let function = |name: &str| format!("redis.register_function('{name}', function() return 1 end)");
    let endless = code("a", "while true do end");
    machine.keep_library(endless.as_bytes()).unwrap();
    machine.keep_library(code("b", &function("g")).as_bytes()).unwrap();
    machine.keep_library(code("c", &function("h")).as_bytes()).unwrap();
    assert_eq!((machine.stats().libraries, machine.stats().functions), (3, 0));
    assert!(machine.lacks(b"g"));
    let patient = || Some(World { patience: Some(50), ..World::default() });
    let failed = machine.load_waiting(Some(b"g"), patient).unwrap_err();
    assert!(failed.starts_with("library 'a' cannot be loaded: ERR Error registering functions"), "{failed}");
    assert_eq!(call(&mut machine, &mut world, "g").as_deref(), Some(":1\r\n"));
    // The one that failed is behind those that were not tried, and its text is kept.
    assert_eq!(machine.waiting().map(|(name, _)| name).collect::<Vec<_>>(), ["c", "a"]);
    assert_eq!(machine.broken().map(|(name, _)| name), Some("a"));
    assert_eq!(&*machine.codes()[0], endless.as_bytes());
    assert_eq!(load(&mut machine, &code("a", &function("i"))), Err("ERR Library 'a' already exists".to_owned()));
    assert!(machine.delete_library(b"a") && machine.delete_library(b"c") && machine.delete_library(b"b"));
    assert_eq!(machine.stats().libraries, 0);
}

#[test]
fn functions_are_called_after_their_state_was_used_up() {
    let (mut machine, mut world) = (machine(), World::default());
    let half = MEMORY_BYTES_MAX / 2;
    let keeps = format!(
        "#!lua name=a\nlocal kept\nredis.register_function('f', function() kept = ('x'):rep({half}) return 1 end)"
    );
    load(&mut machine, &keeps).unwrap();
    for round in 0..3 {
        assert_eq!(call(&mut machine, &mut world, "f").as_deref(), Some(":1\r\n"), "round {round}");
        let other = format!("#!lua name=b{round}\nredis.register_function('g{round}', function() return 2 end)");
        load(&mut machine, &other).unwrap();
        assert_eq!(machine.load_waiting(None, || Some(World::default())), Ok(()));
        assert_eq!(call(&mut machine, &mut world, &format!("g{round}")).as_deref(), Some(":2\r\n"));
    }
    assert_eq!(machine.stats().libraries, 4);
}
