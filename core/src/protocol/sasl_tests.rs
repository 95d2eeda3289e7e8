use super::sasl::{Credentials, Exchange, Mechanism, Secret};

fn credentials(mechanism: Mechanism) -> Credentials {
    Credentials { mechanism, username: "user".into(), password: Secret::new("pencil") }
}

/// The nonce whose base64 is the one of RFC 7677, section 3.
fn nonce() -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode("rOprNGfwEbeRWgbNEkqO").unwrap()
}

fn begun(mechanism: Mechanism, salt: &str, rounds: u32) -> (Exchange, Result<Option<Vec<u8>>, String>) {
    let mut exchange = Exchange::new(credentials(mechanism), &nonce());
    assert_eq!(exchange.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let challenge = format!("r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s={salt},i={rounds}");
    let answer = exchange.answer(challenge.as_bytes()).map_err(|error| error.to_string());
    (exchange, answer)
}

const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

#[test]
fn scram_sha_256_is_as_in_rfc_7677() {
    let (mut exchange, answer) = begun(Mechanism::ScramSha256, SALT, 4096);
    let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    assert_eq!(String::from_utf8(answer.unwrap().unwrap()).unwrap(), expected);
    assert_eq!(exchange.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(None));
    assert!(exchange.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_err(), "it was over");
}

#[test]
fn scram_sha_512_is_as_python_computes_it() {
    let (mut exchange, answer) = begun(Mechanism::ScramSha512, SALT, 4096);
    let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=gMGXRcevScNtxZ6/8lQYpGtnsNAc3mGcmNomv+xnoOMw+3R2xNJdMNnzMlTN8PPC6wdp6dybEmDYXYTxwnYPJQ==";
    assert_eq!(String::from_utf8(answer.unwrap().unwrap()).unwrap(), expected);
    assert_eq!(
        exchange.answer(b"v=ZQnYEgWQMFmmsM8aQMF0nDDCy/AgCzkwk8CmMZYcMg0vSVlKDanekLtifDSeVGT4+5ZxXnJq199RVG2rR7N7Zw=="),
        Ok(None)
    );
}

#[test]
fn plain_says_all_at_once() {
    let mut exchange = Exchange::new(credentials(Mechanism::Plain), b"");
    assert_eq!(exchange.first(), b"\0user\0pencil");
    assert_eq!(exchange.answer(b""), Ok(None));
}

#[test]
fn commas_and_equals_signs_in_names_are_escaped() {
    let mut credentials = credentials(Mechanism::ScramSha256);
    credentials.username = "a=b,c".into();
    let first = Exchange::new(credentials, &nonce()).first();
    assert_eq!(first, b"n,,n=a=3Db=2Cc,r=rOprNGfwEbeRWgbNEkqO");
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    let (mut exchange, answer) = begun(Mechanism::ScramSha256, SALT, 4096);
    assert!(answer.is_ok());
    let error = exchange.answer(b"v=AAAATRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap_err().to_string();
    assert!(error.contains("does not know the password"), "{error}");
}

#[test]
fn what_makes_no_sense_or_costs_too_much_is_refused() {
    for (salt, rounds, expected) in
        [("not base64!", 4096, "salt"), (SALT, 1, "iterations"), (SALT, 2_000_000_000, "iterations")]
    {
        let (_, answer) = begun(Mechanism::ScramSha256, salt, rounds);
        assert!(answer.clone().unwrap_err().contains(expected), "{answer:?}");
    }
    let challenges: [&[u8]; 5] =
        [b"", b"\xff\xfe", b"r=another,s=,i=4096", b"r=rOprNGfwEbeRWgbNEkqO,s=,i=4096", b"e=no"];
    for challenge in challenges {
        let mut exchange = Exchange::new(credentials(Mechanism::ScramSha512), &nonce());
        assert!(exchange.answer(challenge).is_err(), "{challenge:?}");
    }
}

#[test]
fn passwords_are_not_shown() {
    let exchange = Exchange::new(credentials(Mechanism::Plain), b"");
    assert!(!format!("{exchange:?}").contains("pencil"));
}
