//! Clients that sign in with a certificate.

use crate::world::{World, refused};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

struct Holder {
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

impl Holder {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["app".to_owned()]).unwrap().self_signed(&key).unwrap();
        Self { key, certificate }
    }

    /// As MSAL makes them.
    fn assertion(&self, client: &str, audience: &str, id: &str) -> String {
        let thumbprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.certificate.der());
        let mut header = Header::new(Algorithm::PS256);
        header.x5t_s256 = Some(format!("{}=", BASE64_URL_SAFE_NO_PAD.encode(thumbprint)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let claims = json!({"iss": client, "sub": client, "aud": audience, "jti": id, "iat": now, "exp": now + 600.0});
        let key = EncodingKey::from_rsa_pem(self.key.serialize_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }
}

async fn ask(world: &World, assertion: &str, fields: &[(&str, &str)]) -> Value {
    let mut all = vec![
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ];
    if !fields.iter().any(|(name, _)| *name == "scope") {
        all.push(("scope", "https://management.azure.com/.default"));
    }
    all.retain(|(name, _)| !fields.iter().any(|(n, _)| n == name));
    all.extend(fields);
    world.token_at(&world.owner.tenant_id, &all).await
}

#[tokio::test]
async fn a_registered_certificate_opens_and_nothing_else_does() {
    let world = World::start().await;
    let (holder, stranger) = (Holder::new(), Holder::new());
    let client = world.owner.client_id.as_str();
    world.engine.add_certificate(client, &holder.certificate.pem()).await.unwrap();
    let endpoint = world.url(&format!("/{}/oauth2/v2.0/token", world.owner.tenant_id));

    let good = holder.assertion(client, &endpoint, "1");
    let answer = ask(&world, &good, &[("client_id", client)]).await;
    assert_eq!(world.arm(&answer).await, 200);
    // MSAL sends one assertion for several resources; for one resource it is taken once.
    let storage = [("client_id", client), ("scope", "https://storage.azure.com/.default")];
    assert!(ask(&world, &good, &storage).await["access_token"].is_string());
    for fields in [&storage[..], &storage[..1]] {
        assert_eq!(refused(&ask(&world, &good, fields).await), ("invalid_client", 700_027));
    }
    // The secret still counts beside it, and the assertion names the client itself.
    assert!(ask(&world, &holder.assertion(client, &endpoint, "2"), &[]).await["access_token"].is_string());
    assert!(
        world
            .engine
            .sign_in_client(
                &world.owner.tenant_id,
                client,
                lazuli_engine::ClientProof::Secret(&world.owner.client_secret)
            )
            .await
            .is_ok()
    );

    let issuer = world.url(&format!("/{}/v2.0", world.owner.tenant_id));
    assert!(ask(&world, &holder.assertion(client, &issuer, "3"), &[]).await["access_token"].is_string());
    let elsewhere = format!("https://evil.example/{}/oauth2/v2.0/token", world.owner.tenant_id);
    let cases = [
        (stranger.assertion(client, &endpoint, "4"), vec![], ("invalid_client", 700_027)),
        (holder.assertion(client, &elsewhere, "5"), vec![], ("invalid_client", 700_023)),
        (holder.assertion("other", &endpoint, "6"), vec![("client_id", client)], ("invalid_client", 700_021)),
        ("junk".to_owned(), vec![("client_id", client)], ("invalid_request", 50027)),
        (holder.assertion(client, &endpoint, "7"), vec![("client_assertion_type", "x")], ("invalid_request", 50027)),
        (holder.assertion(client, &endpoint, "8"), vec![("client_id", "unknown")], ("unauthorized_client", 700_016)),
    ];
    for (assertion, fields, wanted) in cases {
        let answer = ask(&world, &assertion, &fields).await;
        assert_eq!(refused(&answer), wanted);
        let text = answer.to_string();
        assert!(!text.contains(&assertion) || assertion == "junk", "an assertion is never echoed");
    }
}
