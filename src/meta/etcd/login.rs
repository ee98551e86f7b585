//! Who is logged in: etcd's own authentication by user and password.
//!
//! A login gives a token, which etcd forgets after a while (five minutes without use by default) or when it is restarted. A
//! refused token is dropped and the next operation logs in again; one login serves all that wait for it.

use std::future::Future;

use parking_lot::Mutex;
use tonic::metadata::AsciiMetadataValue;

use super::options::User;
use super::status::Verdict;
use super::wire::{AuthenticateRequest, AuthenticateResponse};
use crate::meta::MetaError;

/// A token, or that none is needed.
#[derive(Debug, Clone, Default)]
pub struct Token {
    number: u64,
    /// To be sent with every request.
    pub value: Option<AsciiMetadataValue>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    LoggedOut,
    LoggedIn(AsciiMetadataValue),
    /// etcd's authentication is off.
    NotNeeded,
}

/// The login of one client.
#[derive(Debug)]
pub struct Login {
    user: Option<User>,
    /// With the number of logins so far: a token is only forgotten by those who used it.
    state: Mutex<(u64, State)>,
    one: tokio::sync::Mutex<()>,
}

impl Login {
    /// Nobody is logged in yet.
    pub fn new(user: Option<User>) -> Self {
        Self { user, state: Mutex::default(), one: tokio::sync::Mutex::default() }
    }

    /// The user's name.
    pub fn user(&self) -> Option<&str> {
        self.user.as_ref().map(|user| user.name.as_str())
    }

    /// The token to use now; `log_in` gets a new one.
    pub async fn token<F>(&self, log_in: impl FnOnce(AuthenticateRequest) -> F) -> Result<Token, Verdict>
    where
        F: Future<Output = Result<AuthenticateResponse, Verdict>>,
    {
        let Some(user) = &self.user else { return Ok(Token::default()) };
        if let Some(token) = self.known() {
            return Ok(token);
        }
        let _one = self.one.lock().await;
        if let Some(token) = self.known() {
            return Ok(token);
        }
        let request = AuthenticateRequest { name: user.name.clone(), password: user.password.reveal().to_owned() };
        match log_in(request).await {
            Ok(answer) => {
                let value = AsciiMetadataValue::try_from(answer.token).map_err(|_| {
                    Verdict::Fail(MetaError::Environment("etcd gave a token that cannot be sent back".to_owned()))
                })?;
                let mut state = self.state.lock();
                *state = (state.0 + 1, State::LoggedIn(value));
            }
            Err(Verdict::NoLogins) => {
                tracing::warn!(
                    user = user.name,
                    "etcd's authentication is off; etcd.user and its password are not used"
                );
                self.not_needed();
            }
            Err(verdict) => return Err(verdict),
        }
        Ok(self.known().unwrap_or_default())
    }

    fn known(&self) -> Option<Token> {
        let state = self.state.lock();
        match &state.1 {
            State::LoggedOut => None,
            State::LoggedIn(value) => Some(Token { number: state.0, value: Some(value.clone()) }),
            State::NotNeeded => Some(Token { number: state.0, value: None }),
        }
    }

    /// etcd does not take this token (any more).
    pub fn forget(&self, token: &Token) {
        let mut state = self.state.lock();
        if state.0 == token.number {
            state.1 = State::LoggedOut;
        }
    }

    /// etcd's authentication is off.
    pub fn not_needed(&self) {
        self.state.lock().1 = State::NotNeeded;
    }
}
