//! Places as clients meet them: adding, asking, searching, storing.

use crate::reply::Protocol;
use crate::testing::{Engine, NOT_FLOAT, SYNTAX, WRONG_TYPE};

fn sicily() -> Engine {
    Engine::after(&["GEOADD Sicily 13.361389 38.115556 Palermo 15.087269 37.502669 Catania", "SET s x"])
}

#[test]
fn members_have_scores_places_and_geohashes() {
    let mut engine = sicily();
    engine.converse(&[
        ("ZSCORE Sicily Palermo", "$16\n3479099956230698\n"),
        ("GEOADD Sicily NX CH 13.361389 38.115556 Palermo 2 3 x", ":1\n"),
        ("GEOADD Sicily XX CH 2 4 x", ":1\n"),
        ("GEOADD Sicily XX NX 2 4 x", SYNTAX),
        ("GEOADD Sicily 1 2", "-ERR wrong number of arguments for 'geoadd' command\n"),
        ("GEOADD Sicily 1 2 a 3", SYNTAX),
        ("GEOADD Sicily 200 100 a", "-ERR invalid longitude,latitude pair 200.000000,100.000000\n"),
        ("GEOADD Sicily x 1 a", NOT_FLOAT),
        ("GEODIST Sicily Palermo Catania", "$11\n166274.1516\n"),
        ("GEODIST Sicily Palermo Catania km", "$8\n166.2742\n"),
        ("GEODIST Sicily Palermo Palermo", "$6\n0.0000\n"),
        ("GEODIST Sicily Palermo none", "$-1\n"),
        ("GEODIST Sicily Palermo Catania x", "-ERR unsupported unit provided. please use M, KM, FT, MI\n"),
        ("GEOHASH Sicily Palermo none", "*2\n$11\nsqc8b49rny0\n$-1\n"),
        ("GEOPOS Sicily Palermo none", "*2\n*2\n$20\n13.36138933897018433\n$20\n38.11555639549629859\n*-1\n"),
        ("GEOPOS s x", WRONG_TYPE),
    ]);
    engine.protocol = Protocol::Resp3;
    assert_eq!(engine.words("GEOPOS Sicily Palermo"), "*1\r\n*2\r\n,13.36138933897018433\r\n,38.11555639549629859\r\n");
}

#[test]
fn a_search_finds_what_lies_inside() {
    let mut engine = sicily();
    engine.words("GEOADD Sicily 12.758489 38.788135 edge1 17.241510 38.788135 edge2");
    engine.converse(&[
        ("GEOSEARCH Sicily FROMLONLAT 15 37 BYRADIUS 200 km ASC", "*2\n$7\nCatania\n$7\nPalermo\n"),
        ("GEOSEARCH Sicily FROMLONLAT 15 37 BYBOX 400 400 km ASC COUNT 3", "*3\n$7\nCatania\n$7\nPalermo\n$5\nedge2\n"),
        (
            "GEORADIUS Sicily 15 37 200 km WITHDIST WITHHASH COUNT 1",
            "*1\n*3\n$7\nCatania\n$7\n56.4413\n:3479447370796909\n",
        ),
        ("GEORADIUSBYMEMBER Sicily Palermo 1 m", "*1\n$7\nPalermo\n"),
        ("GEORADIUSBYMEMBER Sicily nobody 1 m", "-ERR member nobody does not exist\n"),
        ("GEORADIUSBYMEMBER missing nobody x y", "*0\n"),
        ("GEOSEARCH Sicily BYPOLYGON 4 14 37 16 37 16 38 14 38", "*1\n$7\nCatania\n"),
        ("GEOSEARCH Sicily FROMLONLAT 15 37 BYRADIUS 200 km ANY", "-ERR the ANY argument requires COUNT argument\n"),
        ("GEOSEARCH Sicily FROMLONLAT 15 37 BYRADIUS 200 km COUNT 0", "-ERR COUNT must be > 0\n"),
        ("GEOSEARCH Sicily FROMLONLAT 15 37 FROMMEMBER a BYRADIUS 1 km", SYNTAX),
        ("GEOSEARCH Sicily FROMLONLAT 15 37 BYRADIUS -1 km", "-ERR radius cannot be negative\n"),
        ("GEOSEARCH Sicily FROMLONLAT 15 37 BYRADIUS x km", "-ERR need numeric radius\n"),
        ("GEOSEARCH s FROMLONLAT 15 37 BYRADIUS 1 km", WRONG_TYPE),
    ]);
}

#[test]
fn what_is_found_is_stored() {
    let mut engine = sicily();
    engine.converse(&[
        ("GEOSEARCHSTORE d Sicily FROMLONLAT 15 37 BYRADIUS 100 km", ":1\n"),
        ("ZRANGE d 0 -1 WITHSCORES", "*2\n$7\nCatania\n$16\n3479447370796909\n"),
        ("GEORADIUS Sicily 15 37 200 km STOREDIST d", ":2\n"),
        ("ZRANGE d 0 -1", "*2\n$7\nCatania\n$7\nPalermo\n"),
        (
            "GEORADIUS Sicily 15 37 200 km STORE d WITHDIST",
            "-ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and WITHCOORD options\n",
        ),
        ("GEORADIUS_RO Sicily 15 37 200 km STORE d", SYNTAX),
        ("GEOSEARCHSTORE d missing FROMMEMBER x BYRADIUS 1 km", ":0\n"),
        ("EXISTS d", ":0\n"),
    ]);
}
