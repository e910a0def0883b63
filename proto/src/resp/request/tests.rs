//! Every way a request can arrive: whole, in pieces, malformed, oversized, random.

use proptest::prelude::*;

use super::*;
use crate::resp::encode::encode_command;

type Requests = Vec<Vec<Vec<u8>>>;

fn decoder() -> Decoder {
    let mut decoder = Decoder::new(Limits::default());
    decoder.set_authenticated(true);
    decoder
}

/// Feeds `input` in pieces of the given sizes (cycled) and collects requests until input or nerve ends.
fn feed(decoder: &mut Decoder, input: &[u8], pieces: &[usize]) -> (Requests, Option<ProtocolError>) {
    let mut requests = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut fed = 0;
    let mut sizes = pieces.iter().copied().cycle();
    while fed < input.len() {
        let size = sizes.next().unwrap_or(input.len()).clamp(1, input.len() - fed);
        buffer.extend_from_slice(&input[fed..fed + size]);
        fed += size;
        let mut start = 0;
        loop {
            let mut args = Vec::new();
            match decoder.next(&mut buffer[start..], &mut args) {
                Ok(Some(consumed)) => {
                    assert!(consumed > 0, "a request has bytes");
                    let request = &buffer[start..start + consumed];
                    if !args.is_empty() {
                        requests.push(args.iter().map(|arg| arg.of(request).to_vec()).collect());
                    }
                    start += consumed;
                }
                Ok(None) => {
                    assert!(args.is_empty(), "an unfinished request hands out nothing");
                    let arrived = buffer.len() - start;
                    assert!(decoder.bytes_expected().is_none_or(|expected| expected > arrived));
                    break;
                }
                Err(error) => return (requests, Some(error)),
            }
        }
        buffer.drain(..start);
    }
    (requests, None)
}

fn whole(input: &[u8]) -> (Requests, Option<ProtocolError>) {
    feed(&mut decoder(), input, &[])
}

fn error_of(input: &[u8]) -> String {
    whole(input).1.expect("the input is malformed").to_string()
}

#[test]
fn a_pipeline_is_read_request_by_request() {
    let (requests, error) = whole(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING 'x y'\r\n*1\r\n$4\r\nQUIT\r\n*1\r\n$4\r\nPI");
    assert_eq!(error, None);
    let expected: Requests =
        vec![vec![b"GET".to_vec(), b"a".to_vec()], vec![b"PING".to_vec(), b"x y".to_vec()], vec![b"QUIT".to_vec()]];
    assert_eq!(requests, expected);
}

#[test]
fn blank_requests_are_stepped_over() {
    let (requests, error) = whole(b"\r\n\n  \r\n*0\r\n*-1\r\n*-7\r\nPING\n");
    assert_eq!((requests, error), (vec![vec![b"PING".to_vec()]], None));
}

/// The search for the end of a half-arrived first line was remembered beyond the request it belonged to, so that the next
/// short line was looked at from its middle. Found by fuzzing.
#[test]
fn a_header_that_arrived_in_halves_leaves_nothing_behind() {
    let (requests, error) = feed(&mut decoder(), b"*1\r\n$4\r\nPING\r\n\nPING\n", &[3, 13, 1, 5]);
    assert_eq!((requests, error), (vec![vec![b"PING".to_vec()], vec![b"PING".to_vec()]], None));
}

#[test]
fn arguments_may_hold_anything() {
    let mut value = b"\r\n$5\r\n\0*1".to_vec();
    value.resize(5000, b'\r');
    let mut input = Vec::new();
    encode_command(&mut input, &[&b"SET"[..], b"", &value]);
    let (requests, error) = whole(&input);
    assert_eq!((requests, error), (vec![vec![b"SET".to_vec(), b"".to_vec(), value]], None));
}

#[test]
fn malformed_requests_get_the_texts_of_redis() {
    for (input, text) in [
        (&b"*x\r\n"[..], "Protocol error: invalid multibulk length"),
        (b"*\r\n", "Protocol error: invalid multibulk length"),
        (b"*01\r\n", "Protocol error: invalid multibulk length"),
        (b"*1048577\r\n", "Protocol error: invalid multibulk length"),
        (b"*99999999999999999999\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\r\n$x\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\nfoo\r\n", "Protocol error: expected '$', got 'f'"),
        (b"*1\r\n\r\n\r\n", r"Protocol error: expected '$', got '\r'"),
        (b"*1\r\n\xff\r\n", r"Protocol error: expected '$', got '\xff'"),
        (b"GET \"a\r\n", "Protocol error: unbalanced quotes in request"),
    ] {
        assert_eq!(error_of(input), text, "{input:?}");
    }
}

#[test]
fn lines_without_end_are_refused_at_64_kib() {
    for (prefix, text) in [
        (&b"*"[..], "Protocol error: too big mbulk count string"),
        (b"*1\r\n$", "Protocol error: too big bulk count string"),
        (b"PING ", "Protocol error: too big inline request"),
    ] {
        let mut input = prefix.to_vec();
        input.resize(prefix.len() + 64 * 1024 + 1, b'1');
        assert_eq!(error_of(&input), text);
        input.truncate(60_000);
        assert_eq!(whole(&input), (vec![], None));
    }
}

#[test]
fn strangers_send_little() {
    let stranger = |input: &[u8]| feed(&mut Decoder::new(Limits::default()), input, &[]).1;
    let ten_arguments = b"*10\r\n".to_vec();
    assert_eq!(stranger(&ten_arguments), None);
    assert_eq!(stranger(b"*11\r\n"), Some(ProtocolError::UnauthenticatedMultibulkLength));
    assert_eq!(stranger(b"*1\r\n$16384\r\n"), None);
    assert_eq!(stranger(b"*1\r\n$16385\r\n"), Some(ProtocolError::UnauthenticatedBulkLength));
    assert_eq!(stranger(b"*1048577\r\n"), Some(ProtocolError::InvalidMultibulkLength));
}

#[test]
fn login_lifts_the_caps() {
    let mut decoder = Decoder::new(Limits::default());
    let mut args = Vec::new();
    decoder.set_authenticated(true);
    assert_eq!(decoder.next(&mut b"*11\r\n".to_vec(), &mut args), Ok(None));
    decoder.set_authenticated(false);
    // The count was announced while it was allowed; the next length was not.
    let mut input = b"*11\r\n$20000\r\n".to_vec();
    assert_eq!(decoder.next(&mut input, &mut args), Err(ProtocolError::UnauthenticatedBulkLength));
}

#[test]
fn a_whole_request_has_a_limit_too() {
    let limits = Limits { request_bytes_max: 100, ..Limits::default() };
    let mut decoder = Decoder::new(limits);
    decoder.set_authenticated(true);
    let (_, error) = feed(&mut decoder, b"*3\r\n$40\r\n0123456789012345678901234567890123456789\r\n$60\r\n", &[]);
    assert_eq!(error, Some(ProtocolError::RequestTooBig));
}

#[test]
fn claims_reserve_nothing() {
    let mut decoder = decoder();
    let mut args = Vec::new();
    let mut input = b"*1000000\r\n$500000000\r\nx".to_vec();
    assert_eq!(decoder.next(&mut input, &mut args), Ok(None));
    assert_eq!(decoder.bytes_expected(), Some(input.len() - 1 + 500_000_000 + 2));
    assert_eq!((args.capacity(), decoder.progress.arguments.capacity()), (0, 0));
}

#[test]
fn large_requests_in_small_pieces_are_read_once() {
    // A rescan from the start would take 10^11 steps here; the test would not end.
    let many: Vec<&[u8]> = vec![b"x"; 300_000];
    let mut input = Vec::new();
    encode_command(&mut input, &many);
    let mut decoder = decoder();
    let mut args = Vec::new();
    let mut fed = 0;
    let consumed = loop {
        fed = (fed + 7).min(input.len());
        if let Some(consumed) = decoder.next(&mut input[..fed], &mut args).unwrap() {
            break consumed;
        }
    };
    assert_eq!((consumed, args.len()), (input.len(), many.len()));
    assert!(decoder.progress.arguments.capacity() <= KEPT_ARGUMENTS_MAX);
}

fn arguments() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let argument = prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..30),
        1 => proptest::collection::vec(any::<u8>(), 900..1100),
    ];
    proptest::collection::vec(argument, 1..14)
}

/// Bytes that look like the protocol often enough to get deep into it.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"*".to_vec()),
        Just(b"$".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"'".to_vec()),
        Just(b"\\x4".to_vec()),
        Just(b"*2\r\n$1\r\na\r\n".to_vec()),
        (0u32..30).prop_map(|number| number.to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded(commands in proptest::collection::vec(arguments(), 1..6),
                                  pieces in proptest::collection::vec(1usize..80, 1..8)) {
        let mut input = Vec::new();
        for command in &commands {
            encode_command(&mut input, command);
        }
        prop_assert_eq!(feed(&mut decoder(), &input, &pieces), (commands.clone(), None));
        prop_assert_eq!(whole(&input), (commands, None));
    }

    #[test]
    fn where_the_input_is_cut_does_not_matter(input in noise(),
                                              pieces in proptest::collection::vec(1usize..9, 1..8)) {
        prop_assert_eq!(feed(&mut decoder(), &input, &pieces), whole(&input));
    }

    #[test]
    fn random_bytes_never_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        whole(&input);
    }
}
