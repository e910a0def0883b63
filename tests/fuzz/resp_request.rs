//! Any bytes as client requests: never a panic, arguments always inside the input, the same however it is cut in pieces.

use keyward_proto::resp::{ArgRange, Decoder, Limits, ProtocolError, encode_command};

/// All requests of an input, and how it ended.
#[derive(Debug, PartialEq)]
struct Read {
    requests: Vec<Vec<Vec<u8>>>,
    error: Option<ProtocolError>,
}

/// The target.
pub fn resp_request(data: &[u8]) {
    for authenticated in [false, true] {
        let whole = read(data, &[data.len()], authenticated);
        let bytewise: Vec<usize> = (1..=data.len()).collect();
        assert_eq!(read(data, &bytewise, authenticated), whole, "byte by byte it reads differently");
        // Pieces whose lengths depend on the input itself.
        let mut ends: Vec<usize> = data
            .iter()
            .scan(0, |end, byte| {
                Some({
                    *end += usize::from(*byte) + 1;
                    *end
                })
            })
            .collect();
        ends.retain(|end| *end < data.len());
        ends.push(data.len());
        assert_eq!(read(data, &ends, authenticated), whole, "in pieces it reads differently");
        for request in whole.requests.iter().filter(|request| !request.is_empty()) {
            let mut encoded = Vec::new();
            encode_command(&mut encoded, request);
            let again = read(&encoded, &[encoded.len()], true);
            assert_eq!(again.requests, std::slice::from_ref(request), "what it read does not survive being written");
        }
    }
}

/// Decodes `data`, of which first only the bytes up to each of `ends` have arrived.
fn read(data: &[u8], ends: &[usize], authenticated: bool) -> Read {
    let mut decoder = Decoder::new(Limits::default());
    decoder.set_authenticated(authenticated);
    let mut found = Read { requests: Vec::new(), error: None };
    let mut buffer: Vec<u8> = Vec::new();
    let mut arrived = 0;
    let mut arguments: Vec<ArgRange> = Vec::new();
    for end in ends {
        buffer.extend_from_slice(&data[arrived..*end]);
        arrived = *end;
        loop {
            arguments.clear();
            match decoder.next(&mut buffer, &mut arguments) {
                Ok(Some(consumed)) => {
                    assert!(consumed > 0 && consumed <= buffer.len(), "it consumed {consumed} of {}", buffer.len());
                    let request = buffer[..consumed].to_vec();
                    found.requests.push(arguments.iter().map(|range| range.of(&request).to_vec()).collect());
                    buffer.drain(..consumed);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(!error.to_string().contains(['\r', '\n']), "an error that breaks the protocol: {error}");
                    found.error = Some(error);
                    return found;
                }
            }
        }
    }
    found
}
