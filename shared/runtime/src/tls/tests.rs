//! Identities, tokens and files; both ends of a connection are tested with the coordinator's services.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secrecy::ExposeSecret as _;

use super::*;

fn authority() -> Authority {
    Authority::generate().unwrap().0
}

fn subject(name: &str) -> Subject {
    Subject::new(Role::Worker, "0a1b-2c".to_owned(), name)
}

fn hour() -> Validity {
    Validity::from_now(Duration::from_secs(3600))
}

#[test]
fn a_certificate_says_who_and_until_when() {
    let not_after = SystemTime::now() + Duration::from_secs(3600);
    let identity = authority().issue(&subject("gpu-box 7 äöü"), hour()).unwrap();
    let certified = identity.certified();
    assert_eq!(certified.subject, subject("gpu-box 7 äöü"));
    assert!(certified.not_after.abs_diff(unix_seconds(not_after)) <= 1);
    // A peer whose clock is a day behind takes it at once.
    assert!(unix_now() - certified.not_before >= CLOCK_SKEW.as_secs());
}

#[test]
fn names_become_one_short_line() {
    assert_eq!(subject("  two\nlines\u{7}  ").name, "twolines");
    assert_eq!(subject("\n").name, "worker");
    assert!(subject(&"ü".repeat(100)).name.len() <= 64);
    authority().issue(&subject(&"ü".repeat(100)), hour()).unwrap();
}

#[test]
fn a_certificate_is_due_at_two_thirds_of_its_life() {
    let made = 1_000_000;
    let subject = subject("x");
    let certified = Certified { subject, not_before: made - CLOCK_SKEW.as_secs(), not_after: made + 900 };
    assert!(!certified.is_due(made + 599) && certified.is_due(made + 600) && certified.is_due(made + 5000));
}

#[test]
fn what_a_request_says_of_itself_counts_for_nothing() {
    let mut params = rcgen::CertificateParams::new(vec!["coordinator.mtinet.internal".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names.push(rcgen::SanType::URI("mtinet://operator/root".try_into().unwrap()));
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = params.serialize_request(&key).unwrap();
    let pem = authority().sign(csr.der(), &subject("x"), hour()).unwrap();
    use rustls::pki_types::pem::PemObject as _;
    let signed = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!(Certified::read(&signed).unwrap().subject, subject("x"));
    use x509_parser::prelude::FromDer as _;
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&signed).unwrap();
    assert!(!parsed.is_ca());
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
}

#[test]
fn requests_that_cannot_be_trusted_are_refused() {
    let authority = authority();
    let sign = |csr: &[u8]| authority.sign(csr, &subject("x"), hour());
    let mut csr = NewKey::generate().unwrap().csr().unwrap();
    sign(&csr).unwrap();
    *csr.last_mut().unwrap() ^= 1;
    for wrong in [&csr[..], b"", b"nonsense", &[0x30; MAX_CSR_BYTES + 1]] {
        assert!(matches!(sign(wrong), Err(TlsError::Request(_))), "{wrong:?}");
    }
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&other).unwrap();
    let error = sign(csr.der()).unwrap_err();
    assert!(error.to_string().contains("P-256"), "{error}");
}

#[test]
fn an_authority_stays_the_same_and_its_key_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = Authority::open(&dir.path().join("tls")).unwrap();
    let again = Authority::open(&dir.path().join("tls")).unwrap();
    assert_eq!(first.fingerprint(), again.fingerprint());
    assert_eq!(first.pem(), again.pem());
    let file = dir.path().join("tls/authority.pem");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = std::fs::read_to_string(dir.path().join("tls/ca.crt")).unwrap();
    assert!(shown.contains("BEGIN CERTIFICATE") && !shown.contains("PRIVATE"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = Authority::open(&dir.path().join("tls")).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn an_identity_survives_its_file_and_is_refused_where_others_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("identity.pem");
    let identity = authority().issue(&subject("x"), hour()).unwrap();
    identity.store(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let loaded = Identity::load(&file).unwrap();
    assert_eq!((loaded.certified(), loaded.fingerprint()), (identity.certified(), identity.fingerprint()));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Identity::load(&file), Err(TlsError::Exposed { .. })));
    std::fs::remove_file(&file).unwrap();
    write_private(&file, b"-----BEGIN NONSENSE").unwrap();
    let error = Identity::load(&file).unwrap_err().to_string();
    assert!(error.contains("identity.pem") && error.contains("token"), "{error}");
}

#[test]
fn a_key_takes_no_certificate_of_another_key() {
    let authority = authority();
    let (one, two) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
    let of_one = authority.sign(&one.csr().unwrap(), &subject("x"), hour()).unwrap();
    one.certified(&of_one, authority.pem()).unwrap();
    two.certified(&of_one, authority.pem()).unwrap_err();
}

#[test]
fn a_token_reads_back_and_nothing_else_does() {
    let token = Token::generate(Role::Operator, authority().fingerprint()).unwrap();
    let text = token.expose().expose_secret().to_owned();
    let read: Token = text.parse().unwrap();
    assert_eq!((read.role, &read.id, read.fingerprint), (token.role, &token.id, token.fingerprint));
    assert_eq!(Token::hash(&read.secret), Token::hash(&token.secret));
    let secret = token.secret.expose_secret();
    assert!(secret.len() == 64 && text.starts_with("mtinet1.operator."), "256 bits");
    for wrong in [
        String::new(),
        text.replace("mtinet1", "mtinet2"),
        text.replace("operator", "root"),
        text.replace(secret, &secret[1..]),
        text.to_uppercase(),
        format!("{text}.x"),
        format!("{text}0"),
    ] {
        assert!(wrong.parse::<Token>().is_err(), "{wrong}");
    }
}

#[test]
fn a_token_file_may_end_with_a_line_feed_and_is_never_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let token = Token::generate(Role::Worker, authority().fingerprint()).unwrap();
    let text = token.expose();
    std::fs::write(&file, format!("{}\n", text.expose_secret())).unwrap();
    assert_eq!(Token::from_file_or_environment(Some(&file)).unwrap().unwrap().id, token.id);
    std::fs::write(&file, format!("{} and more", text.expose_secret())).unwrap();
    let error = Token::from_file_or_environment(Some(&file)).unwrap_err().to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    assert!(!error.contains(&token.id) && !error.contains(token.secret.expose_secret()), "{error}");
    let error = Token::from_file_or_environment(Some(&dir.path().join("absent"))).unwrap_err();
    assert!(matches!(error, TokenError::File { .. }), "{error}");
}

#[test]
fn nothing_secret_is_printed() {
    let (authority, pem) = Authority::generate().unwrap();
    let identity = authority.issue(&subject("x"), hour()).unwrap();
    let token = Token::generate(Role::Worker, authority.fingerprint()).unwrap();
    let credentials = Credentials::of(identity.clone());
    let key = NewKey::generate().unwrap();
    let printed =
        format!("{authority:?} {pem:?} {identity:?} {token:?} {credentials:?} {key:?} {:?}", token.expose());
    assert!(!printed.contains(token.secret.expose_secret()), "{printed}");
    assert!(!printed.contains("PRIVATE") && !printed.contains("KeyPair"), "{printed}");
}

#[test]
fn times_are_told_in_utc() {
    assert_eq!(utc(1_700_000_000), "2023-11-14 22:13 UTC");
    assert_eq!(utc(unix_seconds(UNIX_EPOCH)), "1970-01-01 00:00 UTC");
    assert!(utc(u64::MAX).contains("after 1970"));
}
