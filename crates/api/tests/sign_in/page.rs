//! The authorization code: a page, a code, a token.

use crate::world::{ARM, AZ, LOGIN, PASSWORD, REDIRECT, World, claims, refused, sent_to};

#[tokio::test]
async fn a_person_signs_in_on_the_page() {
    let world = World::start().await;
    let page = world.client.get(world.url(&world.authorize_path(&[("login_hint", LOGIN)]))).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.headers().get("set-cookie").is_none());
    let html = page.text().await.unwrap();
    assert!(
        html.contains("Microsoft Azure CLI") && html.contains(LOGIN) && html.contains("type=\"password\""),
        "{html}"
    );

    let answer =
        world.post(&world.authorize_path(&[]), &[("login", "Alice@Contoso.example"), ("password", PASSWORD)]).await;
    assert_eq!(answer.status(), 302);
    let sent = sent_to(&answer);
    assert_eq!(sent["state"], "st&te");

    let tokens = world.redeem(&sent["code"], &[]).await;
    assert_eq!(world.arm(&tokens).await, 200);
    assert_eq!(tokens["token_type"], "Bearer");
    let access = claims(&tokens["access_token"]);
    assert_eq!((access["upn"].as_str(), access["appid"].as_str()), (Some(LOGIN), Some(AZ)));
    assert_eq!(access["tid"], world.owner.tenant_id);
    let id = claims(&tokens["id_token"]);
    assert_eq!((id["aud"].as_str(), id["nonce"].as_str()), (Some(AZ), Some("n0nce")));
    assert_eq!(id["preferred_username"], LOGIN);
    assert!(tokens["scope"].as_str().unwrap().contains("https://management.azure.com//.default"));
    // An id token is no access token.
    let path = world.url("/subscriptions?api-version=2022-12-01");
    let with_id = world.client.get(path).bearer_auth(tokens["id_token"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(with_id.status(), 401);
}

#[tokio::test]
async fn a_code_is_redeemed_once_by_who_asked_for_it() {
    let world = World::start().await;
    let code = world.code().await;
    for (fields, wanted) in [
        (&[("code_verifier", "x")][..], ("invalid_grant", 501_481)),
        (&[("redirect_uri", "http://localhost:1")], ("invalid_client", 500_112)),
        (&[("client_id", "1950a258-227b-4e31-a9cf-717495945fc2")], ("invalid_grant", 70000)),
        (&[("client_secret", "x")], ("invalid_client", 700_025)),
        (&[("client_id", "unknown")], ("unauthorized_client", 700_016)),
        (&[("code", "unknown")], ("invalid_grant", 70000)),
        (&[("code", "")], ("invalid_request", 900_144)),
    ] {
        assert_eq!(refused(&world.redeem(&code, fields).await), wanted, "{fields:?}");
    }
    let tokens = world.redeem(&code, &[]).await;
    assert!(tokens["access_token"].is_string(), "the failures before did not use it up: {tokens}");
    // Who comes second may be who was robbed: what the first got goes no further.
    assert_eq!(refused(&world.redeem(&code, &[]).await), ("invalid_grant", 54005));
    let refresh = tokens["refresh_token"].as_str().unwrap();
    assert_eq!(refused(&world.refresh(refresh).await), ("invalid_grant", 50173));
    assert_eq!(refused(&world.redeem(&code, &[]).await), ("invalid_grant", 50173));
}

#[tokio::test]
async fn nobody_is_sent_to_an_address_that_is_not_the_clients() {
    let world = World::start().await;
    for (fields, number) in [
        (&[("redirect_uri", "https://evil.example/")][..], "AADSTS50011"),
        (&[("redirect_uri", "http://localhost.evil.example/")], "AADSTS50011"),
        (&[("redirect_uri", "")], "AADSTS900144"),
        (&[("client_id", "unknown")], "AADSTS700016"),
        (&[("response_mode", "web_message")], "AADSTS9002323"),
    ] {
        let path = world.authorize_path(fields);
        for answer in [
            world.client.get(world.url(&path)).send().await.unwrap(),
            world.post(&path, &[("login", LOGIN), ("password", PASSWORD)]).await,
        ] {
            assert_eq!(answer.status(), 400, "{fields:?}");
            assert!(answer.headers().get("location").is_none());
            assert!(answer.text().await.unwrap().contains(number), "{number}");
        }
    }
}

#[tokio::test]
async fn the_client_is_told_what_is_wrong_with_its_request() {
    let world = World::start().await;
    for (fields, error) in [
        (&[("response_type", "token")][..], "unsupported_response_type"),
        (&[("code_challenge", ""), ("code_challenge_method", "")], "invalid_request"),
        (&[("code_challenge_method", "plain")], "invalid_request"),
        (&[("code_challenge", "short")], "invalid_request"),
        (&[("scope", "https://a/x https://b/y")], "invalid_request"),
        (&[("scope", "https://example.com/.default")], "invalid_resource"),
        (&[("prompt", "none")], "login_required"),
    ] {
        let answer = world.client.get(world.url(&world.authorize_path(fields))).send().await.unwrap();
        assert_eq!(answer.status(), 302, "{fields:?}");
        let sent = sent_to(&answer);
        assert_eq!((sent["error"].as_str(), sent["state"].as_str()), (error, "st&te"), "{fields:?}");
    }
}

/// MSAL for Python takes its answer by POST only.
#[tokio::test]
async fn an_answer_may_be_posted() {
    let world = World::start().await;
    let path = world.authorize_path(&[("response_mode", "form_post")]);
    let answer = world.post(&path, &[("login", LOGIN), ("password", PASSWORD)]).await;
    assert_eq!(answer.status(), 200);
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains(&format!("form-action 'self' {REDIRECT};")), "{policy}");
    let html = answer.text().await.unwrap();
    assert!(html.contains(&format!("action=\"{REDIRECT}\"")) && html.contains("value=\"st&amp;te\""), "{html}");
    let code = html.split("name=\"code\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(world.redeem(code, &[]).await["access_token"].is_string());
}

#[tokio::test]
async fn passwords_may_be_guessed_ten_times() {
    let world = World::start().await;
    let page = world.authorize_path(&[]);
    for login in [LOGIN, "nobody@contoso.example"] {
        for n in 0..12 {
            let answer = world.post(&page, &[("login", login), ("password", "wrong wrong wrong")]).await;
            let html = answer.text().await.unwrap();
            // The words do not tell whether there is such a user.
            let words = if n < 10 { "invalid username or password" } else { "The account is locked" };
            assert!(html.contains(words), "{login} {n}: {html}");
            assert!(!html.contains("wrong wrong wrong"));
        }
    }
    let right = world.post(&page, &[("login", LOGIN), ("password", PASSWORD)]).await;
    assert!(right.text().await.unwrap().contains("The account is locked"), "the right password does not help now");
    let password = [("grant_type", "password"), ("client_id", AZ), ("username", LOGIN), ("password", PASSWORD)];
    assert_eq!(refused(&world.token(&password).await), ("invalid_grant", 50053));
    // Others are not held up.
    let other =
        [("grant_type", "password"), ("client_id", AZ), ("username", "bob@other.example"), ("password", PASSWORD)];
    assert!(world.token(&other).await["access_token"].is_string());
}

#[tokio::test]
async fn a_password_counts_in_its_own_tenant_only() {
    let world = World::start().await;
    let ask = async |tenant: &str, login: &str, password: &str| {
        let fields = [
            ("grant_type", "password"),
            ("client_id", AZ),
            ("username", login),
            ("password", password),
            ("scope", ARM),
        ];
        world.token_at(tenant, &fields).await
    };
    assert_eq!(world.arm(&ask(&world.owner.tenant_id, LOGIN, PASSWORD).await).await, 200);
    assert_eq!(refused(&ask(&world.other_tenant, LOGIN, PASSWORD).await), ("invalid_grant", 50126));
    assert_eq!(refused(&ask("elsewhere", LOGIN, PASSWORD).await), ("invalid_request", 90002));
    assert_eq!(refused(&ask("common", LOGIN, "correct horse batterx").await), ("invalid_grant", 50126));
    world.engine.enable_user(None, LOGIN, false).await.unwrap();
    assert_eq!(refused(&ask("common", LOGIN, PASSWORD).await), ("invalid_grant", 50057));
    assert_eq!(
        refused(&ask("common", LOGIN, "correct horse batterx").await),
        ("invalid_grant", 50126),
        "not told to guessers"
    );
    // For Bob there is no such subscription.
    assert_eq!(world.arm(&ask("common", "bob@other.example", PASSWORD).await).await, 404);
}
