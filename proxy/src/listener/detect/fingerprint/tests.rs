use super::*;

/// A ClientHello's body with these extensions.
fn message(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = [&[3, 3][..], &[0; 32], &[0, 0, 4, 0x13, 0x01, 0x4a, 0x4a, 1, 0]].concat();
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| {
            let length = (content.len() as u16).to_be_bytes();
            [&kind.to_be_bytes()[..], &length, content].concat()
        })
        .collect();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    body
}

fn taken(extensions: &[(u16, &[u8])]) -> (String, String) {
    let offer = message(extensions);
    let offer = Offer::read(&offer).expect("well formed");
    (offer.ja3(), offer.ja4())
}

#[test]
fn what_is_offered_at_random_does_not_count_but_in_groups() {
    let groups: &[u8] = &[0, 4, 0x1a, 0x1a, 0, 29];
    let (ja3, ja4) = taken(&[(0x3a3a, &[]), (GROUPS, groups), (POINT_FORMATS, &[1, 0])]);
    assert_eq!(ja3, crate::tls::x509::hex(&Md5::digest(b"771,4865,10-11,6682-29,0")));
    let sha = |text: &str| crate::tls::x509::hex(&Sha256::digest(text)[..6]);
    assert_eq!(ja4, format!("t12i010200_{}_{}", sha("1301"), sha("000a,000b")));
}

#[test]
fn only_what_is_wanted_is_taken_and_of_nothing_broken() {
    let whole = message(&[]);
    let wanted = Wanted { ja3: false, ja4: true };
    let taken = wanted.take(&whole).expect("well formed");
    assert!(taken.ja3.is_none());
    assert_eq!(taken.ja4.as_deref().map(|text| &text[..10]), Some("t12i010000"));
    for cut in 0..whole.len() - 2 {
        assert!(wanted.take(&whole[..cut]).is_none(), "{cut} bytes");
    }
    assert!(!Wanted::default().any());
}
