//! Connection strings, as they stand in a host's settings.

use flashkit::store::postgres::PostgresConfig;

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    // The last line names the schema.
    let (connection, schema) = text.split_once('\n').unwrap_or((text, "flashkit"));
    let config = PostgresConfig::new(connection).schema(schema);
    // A password does not come back in what is printed.
    let printed = format!("{config:?}");
    if let Some((_, secret)) = connection.split_once("password=") {
        let secret: String = secret.chars().take_while(|c| c.is_alphanumeric()).collect();
        let is_elsewhere = secret.len() < 8 || schema.contains(&secret);
        assert!(is_elsewhere || !printed.contains(&secret), "{printed}");
    }
    match config.check() {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.code(), "store.misconfigured");
            false
        }
    }
}
