//! The examples of RFC 7541 appendix C, with the table that each leaves behind.

use super::*;

type Fields<'a> = &'a [(&'a str, &'a str)];

/// Block, its fields, the table's entries from the newest on, the table's size.
type Example<'a> = (&'a str, Fields<'a>, Fields<'a>, usize);

fn follow(decoder: &mut Decoder, examples: &[Example<'_>]) {
    for (block, fields, entries, size) in examples {
        assert_eq!(
            plain(&decode(decoder, &hex(block)).expect("a block")),
            *fields,
            "{block}"
        );
        let own = |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let entries: Vec<_> = entries.iter().map(own).collect();
        assert_eq!(decoder.table.fields(), entries, "{block}");
        assert_eq!(decoder.table.size(), *size, "{block}");
    }
}

#[test]
fn single_fields() {
    let with_indexing = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    let field: Fields = &[("custom-key", "custom-header")];
    follow(&mut Decoder::new(4096), &[(with_indexing, field, field, 55)]);

    let without_indexing = "040c 2f73 616d 706c 652f 7061 7468";
    follow(
        &mut Decoder::new(4096),
        &[(without_indexing, &[(":path", "/sample/path")], &[], 0)],
    );

    let never_indexed = "1008 7061 7373 776f 7264 0673 6563 7265 74";
    let mut decoder = Decoder::new(4096);
    let fields = decode(&mut decoder, &hex(never_indexed)).expect("a block");
    assert_eq!(plain(&fields), [("password", "secret")]);
    assert!(fields[0].sensitive);
    assert_eq!(decoder.table.size(), 0);

    follow(&mut Decoder::new(4096), &[("82", &[(":method", "GET")], &[], 0)]);
}

const REQUESTS: [Fields; 3] = [
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

const CODED_REQUESTS: [&str; 3] = [
    "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
    "8286 84be 5886 a8eb 1064 9cbf",
    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
];

const AFTER_REQUESTS: [(Fields, usize); 3] = [
    (&[(":authority", "www.example.com")], 57),
    (&[("cache-control", "no-cache"), (":authority", "www.example.com")], 110),
    (
        &[
            ("custom-key", "custom-value"),
            ("cache-control", "no-cache"),
            (":authority", "www.example.com"),
        ],
        164,
    ),
];

#[test]
fn requests() {
    let plain_blocks = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    for blocks in [plain_blocks, CODED_REQUESTS] {
        let examples: Vec<Example> = (0..3)
            .map(|n| (blocks[n], REQUESTS[n], AFTER_REQUESTS[n].0, AFTER_REQUESTS[n].1))
            .collect();
        follow(&mut Decoder::new(4096), &examples);
    }
}

#[test]
fn our_encoder_writes_the_requests_as_the_rfc_does() {
    let mut encoder = Encoder::new();
    for (n, fields) in REQUESTS.iter().enumerate() {
        assert_eq!(encode(&mut encoder, fields), hex(CODED_REQUESTS[n]));
        assert_eq!(encoder.table.size(), AFTER_REQUESTS[n].1);
    }
}

const FIRST_DATE: &str = "Mon, 21 Oct 2013 20:13:21 GMT";
const LAST_DATE: &str = "Mon, 21 Oct 2013 20:13:22 GMT";
const LOCATION: &str = "https://www.example.com";
const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

const RESPONSES: [Fields; 3] = [
    &[
        (":status", "302"),
        ("cache-control", "private"),
        ("date", FIRST_DATE),
        ("location", LOCATION),
    ],
    &[
        (":status", "307"),
        ("cache-control", "private"),
        ("date", FIRST_DATE),
        ("location", LOCATION),
    ],
    &[
        (":status", "200"),
        ("cache-control", "private"),
        ("date", LAST_DATE),
        ("location", LOCATION),
        ("content-encoding", "gzip"),
        ("set-cookie", COOKIE),
    ],
];

const AFTER_RESPONSES: [(Fields, usize); 3] = [
    (
        &[
            ("location", LOCATION),
            ("date", FIRST_DATE),
            ("cache-control", "private"),
            (":status", "302"),
        ],
        222,
    ),
    (
        &[
            (":status", "307"),
            ("location", LOCATION),
            ("date", FIRST_DATE),
            ("cache-control", "private"),
        ],
        222,
    ),
    (
        &[
            ("set-cookie", COOKIE),
            ("content-encoding", "gzip"),
            ("date", LAST_DATE),
        ],
        215,
    ),
];

/// The examples have a table of 256 octets, to show how entries go.
#[test]
fn responses_with_evictions() {
    let plain_blocks = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d \
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f \
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b \
         2076 6572 7369 6f6e 3d31",
    ];
    let coded_blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 \
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 \
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for blocks in [plain_blocks, coded_blocks] {
        let mut decoder = Decoder::new(256);
        decode(&mut decoder, &hex("3fe1 01")).expect("a size update");
        let examples: Vec<Example> = (0..3)
            .map(|n| (blocks[n], RESPONSES[n], AFTER_RESPONSES[n].0, AFTER_RESPONSES[n].1))
            .collect();
        follow(&mut decoder, &examples);
    }
}
