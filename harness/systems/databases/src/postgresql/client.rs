//! A client of PostgreSQL: each operation is one transaction.
//!
//! The library neither reconnects nor sends a statement again. An error that the server reports for a
//! statement ends the transaction, so nothing of it takes effect; an error of the connection leaves that open,
//! and so does the end of the server.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use history::Function;
use lab::{
    NodeName,
    client::{Answer, Client},
    network::Dialer,
    request::Request,
};
use serde_json::{Map, Value as Json, json};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{
    Client as Library, Error, Row, SimpleQueryMessage,
    error::{DbError, Severity},
    types::{FromSqlOwned, ToSql, Type},
};

use super::Shared;
use crate::steps::{self, Step};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Classes of errors that the server reports before it does anything lasting: connections that are not
/// accepted, wrong states, transactions that were rolled back for the sake of others.
const REFUSALS: [&str; 4] = ["25", "40", "55", "23"];

/// The one of these classes that leaves open what became of the transaction.
const UNKNOWN: &str = "40003";

pub(crate) struct PostgresClient {
    shared: Arc<Shared>,
    dialer: Dialer,
    /// The node that it connects to; without one, the primary of the moment.
    node: Option<NodeName>,
    connection: Option<(Library, JoinHandle<()>)>,
    misconduct: Option<String>,
}

impl Drop for PostgresClient {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl PostgresClient {
    pub(crate) fn new(shared: Arc<Shared>, dialer: Dialer, node: Option<NodeName>) -> Self {
        PostgresClient { shared, dialer, node, connection: None, misconduct: None }
    }

    fn disconnect(&mut self) {
        if let Some((_, running)) = self.connection.take() {
            running.abort();
        }
    }

    async fn connect(&mut self) -> Result<(), String> {
        self.disconnect();
        let node = self.node.clone().unwrap_or_else(|| self.shared.primary());
        let connected = async {
            let (library, running) = self.shared.connect(&self.dialer, &node).await?;
            match self.begin(&library).await {
                Ok(()) => Ok((library, running)),
                Err(why) => {
                    running.abort();
                    Err(why)
                }
            }
        };
        let connected = timeout(CONNECT_TIMEOUT, connected).await;
        let late = |_| "timeout: the connection was not opened in time".to_owned();
        self.connection = Some(connected.map_err(late)??);
        Ok(())
    }

    /// Begins a session: with the isolation that is asked for, and not at a standby, which has old data.
    async fn begin(&self, library: &Library) -> Result<(), String> {
        let isolation = &self.shared.isolation;
        let set = format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {isolation}");
        library.batch_execute(&set).await.map_err(|error| error.to_string())?;
        let answer = library.simple_query("SHOW transaction_read_only").await;
        let answer = answer.map_err(|error| error.to_string())?;
        let is_read_only = answer.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some("on"),
            _ => false,
        });
        if is_read_only { Err("unavailable: it is a standby".to_owned()) } else { Ok(()) }
    }

    async fn request(&mut self, request: &Request) -> Answer {
        let Some((library, _)) = &self.connection else {
            let error = "unavailable: there is no connection".to_owned();
            return Answer::Fail { error, unavailable: true };
        };
        match execute(library, request, self.shared.on_lists).await {
            Ok(Ok(value)) => Answer::Ok { version: None, value },
            Ok(Err(NoResult::Mismatch)) => {
                Answer::Fail { error: "mismatch".to_owned(), unavailable: false }
            }
            Ok(Err(NoResult::Misunderstood(why))) => {
                self.misconduct = Some(why.clone());
                Answer::info(why)
            }
            Ok(Err(NoResult::Unreadable(why))) => Answer::info(format!("unreadable: {why}")),
            Err(error) => {
                // An open transaction has failed. If it cannot be ended, the connection is of no use.
                if library.batch_execute("ROLLBACK").await.is_err() {
                    self.disconnect();
                }
                judge(&error)
            }
        }
    }
}

/// Why an operation has no result, although the server reported no error.
enum NoResult {
    /// A compare-and-set found another value.
    Mismatch,
    /// The harness asks for what the client does not know.
    Misunderstood(String),
    /// The server has stored what nobody wrote, or has lost what was there.
    Unreadable(String),
}

/// Writes a register.
const PUT: &str =
    "INSERT INTO registers VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v";

type Done = Result<Result<Option<String>, NoResult>, Error>;

/// What an error says of an operation.
fn judge(error: &Error) -> Answer {
    let is_certain = |error: &DbError| {
        // What is worse than an error ends the connection, or the server, at any moment.
        let is_error = matches!(error.parsed_severity(), Some(Severity::Error));
        let code = error.code().code();
        is_error && code != UNKNOWN && REFUSALS.iter().any(|class| code.starts_with(class))
    };
    match error.as_db_error() {
        Some(reported) if is_certain(reported) => {
            let error = format!("conflict: {} ({})", reported.message(), reported.code().code());
            Answer::Fail { error, unavailable: false }
        }
        Some(reported) => {
            Answer::info(format!("lost: {} ({})", reported.message(), reported.code().code()))
        }
        None => Answer::info(format!("lost: {error}")),
    }
}

/// Executes a request. `on_lists` says what transactions read.
async fn execute(library: &Library, request: &Request, on_lists: bool) -> Done {
    let Request { f, key, value } = request;
    let value = value.as_deref().unwrap_or_default();
    let done = Ok(Ok(None));
    match f {
        Function::Get => {
            let get = "SELECT v FROM registers WHERE k = $1";
            Ok(Ok(query_one(library, get, &[text(&key)]).await?))
        }
        Function::Put => {
            run(library, PUT, &[text(&key), text(&value)]).await?;
            done
        }
        Function::Cas => compare_and_set(library, key, value).await,
        Function::Add => {
            let Ok(element) = value.parse::<i64>() else { return misunderstood(request) };
            let add = "INSERT INTO elements (s, e) VALUES ($1, $2)";
            run(library, add, &[text(&key), (&element, Type::INT8)]).await?;
            done
        }
        Function::Inc => {
            let Ok(amount) = value.parse::<i64>() else { return misunderstood(request) };
            let add = "INSERT INTO counters VALUES ($1, $2) \
                       ON CONFLICT (k) DO UPDATE SET n = counters.n + excluded.n";
            run(library, add, &[text(&key), (&amount, Type::INT8)]).await?;
            done
        }
        Function::Read => read(library, key).await,
        Function::Transfer => {
            let Some(transfer) = Transfer::parse(value) else { return misunderstood(request) };
            move_money(library, &transfer).await
        }
        Function::Txn => match steps::parse(request) {
            Some(steps) => transaction(library, &steps, on_lists).await,
            None => misunderstood(request),
        },
        _ => misunderstood(request),
    }
}

/// Executes the steps as statements of one transaction.
async fn transaction(library: &Library, steps: &[Step], on_lists: bool) -> Done {
    library.batch_execute("BEGIN").await?;
    let mut reads: Vec<steps::Stored> = Vec::new();
    for step in steps {
        match step {
            Step::Read(key) => {
                let read = match on_lists {
                    true => "SELECT v FROM lists WHERE k = $1",
                    false => "SELECT v FROM registers WHERE k = $1",
                };
                reads.push(query_one(library, read, &[text(key)]).await?);
            }
            Step::Append(key, element) => {
                let append = "INSERT INTO lists VALUES ($1, $2) \
                              ON CONFLICT (k) DO UPDATE SET v = lists.v || ',' || excluded.v";
                run(library, append, &[text(key), text(&element.to_string())]).await?;
            }
            Step::Write(key, value) => {
                run(library, PUT, &[text(key), text(&value.to_string())]).await?;
            }
        }
    }
    library.batch_execute("COMMIT").await?;
    Ok(steps::answer(steps, reads, on_lists).map(Some).map_err(NoResult::Unreadable))
}

fn misunderstood(request: &Request) -> Done {
    Ok(Err(NoResult::Misunderstood(format!("this is not understood: {request:?}"))))
}

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

fn text<'a, T: ToSql + Sync>(text: &'a T) -> Parameter<'a> {
    (text, Type::TEXT)
}

/// Executes a statement. Returns the number of rows that it concerned.
async fn run(library: &Library, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, Error> {
    library.execute_typed(sql, parameters).await
}

/// The value in the first row. One that is stored wrongly is an error of the library.
async fn query_one<T: FromSqlOwned>(
    library: &Library,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Option<T>, Error> {
    let rows = library.query_typed(sql, parameters).await?;
    rows.first().map(|row| row.try_get(0)).transpose()
}

async fn compare_and_set(library: &Library, key: &str, pair: &str) -> Done {
    let Ok((expected, new)) = serde_json::from_str::<(Option<String>, String)>(pair) else {
        return Ok(Err(NoResult::Misunderstood(format!("{pair} is no pair of values"))));
    };
    let changed = match &expected {
        Some(expected) => {
            let update = "UPDATE registers SET v = $2 WHERE k = $1 AND v = $3";
            run(library, update, &[text(&key), text(&new), text(expected)]).await?
        }
        None => {
            let insert = "INSERT INTO registers VALUES ($1, $2) ON CONFLICT (k) DO NOTHING";
            run(library, insert, &[text(&key), text(&new)]).await?
        }
    };
    Ok(if changed == 1 { Ok(None) } else { Err(NoResult::Mismatch) })
}

/// Reads a whole object. Sets are named `s`, counters `c`, and there is one bank.
async fn read(library: &Library, key: &str) -> Done {
    let value = match key.as_bytes().first() {
        Some(b's') => {
            let sql = "SELECT e FROM elements WHERE s = $1";
            let rows = library.query_typed(sql, &[text(&key)]).await?;
            json!(rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, Error>>()?)
        }
        Some(b'c') => {
            let sql = "SELECT n FROM counters WHERE k = $1";
            json!(query_one::<i64>(library, sql, &[text(&key)]).await?.unwrap_or(0))
        }
        _ => {
            let rows = library.query_typed("SELECT name, balance FROM accounts", &[]).await?;
            let balance = |row: &Row| Ok((row.try_get(0)?, json!(row.try_get::<_, i64>(1)?)));
            Json::Object(rows.iter().map(balance).collect::<Result<Map<String, Json>, Error>>()?)
        }
    };
    Ok(Ok(Some(value.to_string())))
}

/// Money to move.
struct Transfer {
    from: String,
    to: String,
    amount: i64,
}

impl Transfer {
    fn parse(value: &str) -> Option<Transfer> {
        let transfer: Json = serde_json::from_str(value).ok()?;
        let account = |name: &str| transfer.get(name)?.as_str().map(str::to_owned);
        let amount = transfer.get("amount")?.as_i64()?;
        Some(Transfer { from: account("from")?, to: account("to")?, amount })
    }
}

/// Reads both balances and writes what they become: right only if nobody interferes.
async fn move_money(library: &Library, transfer: &Transfer) -> Done {
    let Transfer { from, to, amount } = transfer;
    library.batch_execute("BEGIN").await?;
    let mut balances = Vec::new();
    for (account, change) in [(from, -amount), (to, *amount)] {
        let select = "SELECT balance FROM accounts WHERE name = $1";
        let balance: Option<i64> = query_one(library, select, &[text(account)]).await?;
        let Some(changed) = balance.and_then(|balance| balance.checked_add(change)) else {
            library.batch_execute("ROLLBACK").await?;
            let why = format!("account {account} has the balance {balance:?}");
            return Ok(Err(NoResult::Unreadable(why)));
        };
        balances.push((account, changed));
    }
    for (account, balance) in balances {
        let update = "UPDATE accounts SET balance = $2 WHERE name = $1";
        run(library, update, &[text(account), (&balance, Type::INT8)]).await?;
    }
    library.batch_execute("COMMIT").await?;
    Ok(Ok(None))
}

impl Client for PostgresClient {
    fn open(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.connect())
    }

    fn perform<'a>(
        &'a mut self,
        request: &'a Request,
        deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            match timeout(deadline, self.request(request)).await {
                Ok(answer) => answer,
                Err(_) => Answer::info("timeout: no answer in time"),
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.disconnect();
        Box::pin(std::future::ready(()))
    }

    fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }

    fn misconduct(&mut self) -> Option<String> {
        self.misconduct.take()
    }
}
