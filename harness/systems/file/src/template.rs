//! Texts with placeholders, such as `{ip}:{port.client}`. A template is parsed and checked when the
//! file is read, so that filling it in cannot fail.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use history::Function;
use lab::request::Request;

/// What a template may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// The names of ports.
    pub(crate) ports: Vec<String>,
    /// The names of roles.
    pub(crate) roles: Vec<String>,
    /// Whether it is about one node.
    pub(crate) of_node: bool,
    /// Whether it is about an operation of a client.
    pub(crate) of_request: bool,
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
    /// A template for each other node, and what separates them.
    Peers(Template, String),
    /// A template for each node, or each of a role, and what separates them.
    Nodes(Option<String>, Template, String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Number,
    Role,
    Ip,
    Port(String),
    Directory,
    Home,
    Request(RequestField, bool),
}

/// A part of a request, and whether it is written in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestField {
    Key,
    Value,
    Old,
    New,
}

/// The parts of a request as texts.
#[derive(Clone, Debug)]
pub(crate) struct RequestFacts {
    key: String,
    value: String,
    old: String,
    new: String,
}

impl RequestFacts {
    /// The parts of a request. What it does not have is empty.
    pub(crate) fn of(request: &Request) -> Self {
        let (old, new) = match (request.f, request.value.as_deref()) {
            (Function::Cas, Some(pair)) => {
                serde_json::from_str::<(Option<String>, Option<String>)>(pair).unwrap_or_default()
            }
            _ => (None, None),
        };
        RequestFacts {
            key: request.key.clone(),
            value: request.value.clone().unwrap_or_default(),
            old: old.unwrap_or_default(),
            new: new.unwrap_or_default(),
        }
    }

    fn text(&self, field: RequestField) -> &str {
        match field {
            RequestField::Key => &self.key,
            RequestField::Value => &self.value,
            RequestField::Old => &self.old,
            RequestField::New => &self.new,
        }
    }
}

/// What a node is called and where it is.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    /// The number of the node in its role, from 1.
    pub(crate) number: u32,
    pub(crate) role: String,
    pub(crate) ip: String,
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) directory: String,
}

/// What templates are filled in with.
#[derive(Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) nodes: &'a [NodeFacts],
    /// The node that it is about, by position.
    pub(crate) node: Option<usize>,
    pub(crate) home: &'a str,
    /// The operation that it is about.
    pub(crate) request: Option<RequestFacts>,
}

/// The placeholders, for messages.
const PLACEHOLDERS: &str = "{name}, {i}, {role}, {ip}, {port.NAME}, {dir}, {home}, \
                            {peers:TEMPLATE|SEPARATOR}, {nodes:TEMPLATE|SEPARATOR}, {nodes.ROLE:TEMPLATE|SEPARATOR}; \
                            {{ and }} are braces";

impl Template {
    /// Parses a text.
    ///
    /// # Errors
    /// A placeholder is not known, or has no value here; in words.
    pub(crate) fn parse(text: &str, scope: &Scope) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut literal = String::new();
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            if rest[at + 1..].starts_with(brace) {
                literal.push_str(brace);
                rest = &rest[at + 2..];
                continue;
            }
            if brace == "}" {
                return Err(format!("'{text}': a }} without {{; write }}}} for a brace"));
            }
            let end = closing(&rest[at..])
                .ok_or_else(|| format!("'{text}': a {{ without }}; write {{{{ for a brace"))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Template::placeholder(&rest[at + 1..at + end], scope)?);
            rest = &rest[at + end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Template(parts))
    }

    fn placeholder(name: &str, scope: &Scope) -> Result<Part, String> {
        if let Some((kind, inner)) = name.split_once(':')
            && (kind == "peers" || kind == "nodes" || kind.starts_with("nodes."))
        {
            let role = kind.strip_prefix("nodes.");
            if let Some(role) = role
                && !scope.roles.iter().any(|known| known == role)
            {
                return Err(format!(
                    "'{{{name}}}': there is no role '{role}'; the roles are {}",
                    scope.roles.join(", ")
                ));
            }
            let (inner, separator) = inner.rsplit_once('|').ok_or_else(|| {
                format!(
                    "'{{{name}}}': expected {{{kind}:TEMPLATE|SEPARATOR}}, as in \
                         {{{kind}:{{ip}}:{{port.NAME}}|,}}"
                )
            })?;
            if kind == "peers" && !scope.of_node {
                return Err(format!(
                    "'{{{name}}}' has no value here: it is about one node; write nodes"
                ));
            }
            let inner = Template::parse(inner, &Scope { of_node: true, ..scope.clone() })?;
            let separator = separator.to_owned();
            return Ok(match kind {
                "peers" => Part::Peers(inner, separator),
                _ => Part::Nodes(role.map(str::to_owned), inner, separator),
            });
        }
        if let Some(field) = request_field(name) {
            return match scope.of_request {
                true => Ok(Part::Field(field)),
                false => Err(format!(
                    "'{{{name}}}' has no value here: it is about an operation of the client"
                )),
            };
        }
        let field = match name {
            "name" => Field::Name,
            "i" => Field::Number,
            "role" => Field::Role,
            "ip" => Field::Ip,
            "dir" => Field::Directory,
            "home" => Field::Home,
            other => match other.strip_prefix("port.") {
                Some(port) if scope.ports.iter().any(|known| known == port) => {
                    Field::Port(port.to_owned())
                }
                Some(port) => {
                    return Err(format!(
                        "'{{{name}}}': there is no port '{port}'; the ports are {}",
                        scope.ports.join(", ")
                    ));
                }
                None => {
                    return Err(format!(
                        "'{{{name}}}' is no placeholder; there are {PLACEHOLDERS}"
                    ));
                }
            },
        };
        if !scope.of_node && field != Field::Home {
            return Err(format!(
                "'{{{name}}}' has no value here: this is about all nodes; use {{nodes:TEMPLATE|SEPARATOR}}"
            ));
        }
        Ok(Part::Field(field))
    }

    /// The text with its placeholders filled in.
    pub(crate) fn fill(&self, facts: &Facts<'_>) -> String {
        self.0.iter().map(|part| part.fill(facts)).collect()
    }
}

/// A placeholder for a part of a request: `key`, or `key.base64`.
fn request_field(name: &str) -> Option<Field> {
    let (name, is_base64) = match name.strip_suffix(".base64") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let field = match name {
        "key" => RequestField::Key,
        "value" => RequestField::Value,
        "old" => RequestField::Old,
        "new" => RequestField::New,
        _ => return None,
    };
    Some(Field::Request(field, is_base64))
}

/// The position of the brace that closes the first one.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

impl Part {
    fn fill(&self, facts: &Facts<'_>) -> String {
        let each = |template: &Template, separator: &str, chosen: &dyn Fn(usize) -> bool| {
            let nodes = (0..facts.nodes.len()).filter(|node| chosen(*node));
            let texts =
                nodes.map(|node| template.fill(&Facts { node: Some(node), ..facts.clone() }));
            texts.collect::<Vec<_>>().join(separator)
        };
        match self {
            Part::Text(text) => text.clone(),
            Part::Peers(template, separator) => {
                each(template, separator, &|node| Some(node) != facts.node)
            }
            Part::Nodes(role, template, separator) => each(template, separator, &|node| {
                role.as_ref().is_none_or(|role| facts.nodes[node].role == *role)
            }),
            Part::Field(Field::Home) => facts.home.to_owned(),
            Part::Field(Field::Request(field, is_base64)) => {
                let text = facts.request.as_ref().map_or("", |request| request.text(*field));
                if *is_base64 { STANDARD.encode(text) } else { text.to_owned() }
            }
            Part::Field(field) => {
                let node = facts.node.map(|node| &facts.nodes[node]);
                node.map_or_else(String::new, |node| field.of(node))
            }
        }
    }
}

impl Field {
    fn of(&self, node: &NodeFacts) -> String {
        match self {
            Field::Name => node.name.clone(),
            Field::Number => node.number.to_string(),
            Field::Role => node.role.clone(),
            Field::Ip => node.ip.clone(),
            Field::Directory => node.directory.clone(),
            Field::Home | Field::Request(..) => String::new(),
            Field::Port(name) => {
                let port = node.ports.iter().find(|(port, _)| port == name);
                // A node of a role without this port has none.
                port.map_or_else(String::new, |(_, number)| number.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Vec<NodeFacts> {
        (1..=3)
            .map(|number| NodeFacts {
                name: format!("n{number}"),
                number,
                role: "node".to_owned(),
                ip: format!("127.0.0.{number}"),
                ports: vec![("client".to_owned(), 7000), ("peer".to_owned(), 7001)],
                directory: format!("/tmp/x/n{number}"),
            })
            .collect()
    }

    fn scope() -> Scope {
        let ports = vec!["client".to_owned(), "peer".to_owned()];
        Scope { ports, roles: vec!["node".to_owned()], of_node: true, of_request: true }
    }

    fn filled(text: &str) -> String {
        let nodes = facts();
        let facts = Facts {
            nodes: &nodes,
            node: Some(1),
            home: "/home",
            request: Some(RequestFacts::of(&Request::with(Function::Put, "k", 7))),
        };
        Template::parse(text, &scope()).unwrap_or_else(|why| panic!("{why}")).fill(&facts)
    }

    #[test]
    fn placeholders_are_filled_in() {
        assert_eq!(filled("{ip}:{port.client}"), "127.0.0.2:7000");
        assert_eq!(filled("{{{name}}} {i} {home}"), "{n2} 2 /home");
        assert_eq!(
            filled("{peers:{name}=http://{ip}:{port.peer}|,}"),
            "n1=http://127.0.0.1:7001,n3=http://127.0.0.3:7001"
        );
        assert_eq!(filled("/{key}?{value.base64}"), "/k?Nw==");
        assert_eq!(filled("<{nodes:{name}| }>"), "<n1 n2 n3>");
        assert_eq!(filled("{nodes.node:{i}|}"), "123");
    }

    #[test]
    fn what_cannot_be_filled_in_is_explained() {
        for (text, part) in [
            ("{label}", "'{label}' is no placeholder"),
            ("{port.rpc}", "the ports are client, peer"),
            ("{nodes.primary:{ip}|,}", "the roles are node"),
            ("{ip", "a { without }"),
            ("ip}", "a } without {"),
            ("{peers:{ip}}", "expected {peers:TEMPLATE|SEPARATOR}"),
        ] {
            let error = Template::parse(text, &scope()).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        let global = Scope { of_node: false, of_request: false, ..scope() };
        for text in ["{ip}", "{peers:{ip}|,}", "{key}"] {
            let error = Template::parse(text, &global).expect_err(text);
            assert!(error.contains("has no value here"), "{text}: {error}");
        }
    }
}
