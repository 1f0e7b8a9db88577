//! The sign-in form.

use super::head;
use maud::{DOCTYPE, Markup, html};

/// `wrong` when another token was shown before.
pub fn content(wrong: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("Sign in", &[]))
            body {
                main.sign-in {
                    h1 { "Sign in" }
                    form.panel method="post" action="/sign-in" {
                        label for="token" { "The run's token" }
                        input #token name="token" type="password" autocomplete="current-password" required autofocus
                            aria-describedby="token-help" aria-invalid=[wrong.then_some("true")];
                        p.note #token-help { "The value of " code { "IP2P_TOKEN" } " where the coordinator was started." }
                        @if wrong { p.bad role="alert" { "This is not the run's token." } }
                        button type="submit" { "Sign in" }
                    }
                }
            }
        }
    }
}
