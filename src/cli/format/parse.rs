//! From the text of a template to its tree. The grammar is the part of Go's text/template that docker's documentation
//! uses; what lies outside it is an error that says so.

use serde_json::{Value, json};

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Text(String),
    Print(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        /// `$key, $value`, or `$value` alone.
        variables: Vec<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Assign {
        variable: String,
        value: Pipeline,
    },
}

/// Commands joined by `|`: each gets the result of the one before as its last argument.
pub type Pipeline = Vec<Command>;

/// A value, or a function and its arguments.
pub type Command = Vec<Operand>;

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Literal(Value),
    /// `.A.B` of the value at hand; no name is the value itself.
    Field(Vec<String>),
    /// `$x.A.B`; `$` is named by no text.
    Variable(String, Vec<String>),
    Function(String),
    /// `(…)`, and fields of its result.
    Group(Pipeline, Vec<String>),
}

/// What an action may begin with.
const KEYWORDS: [&str; 6] = ["if", "else", "end", "range", "with", "define"];

pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut parser = Parser { pieces: split(text)?, at: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        None => Ok(nodes),
        Some(word) => Err(format!("`{word}` without a beginning")),
    }
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Field(String),
    Variable(String),
    Literal(Value),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
}

/// Texts and actions in turn; `{{-` and `-}}` take the white space beside them away.
fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let (mut rest, mut trim) = (text, false);
    while let Some(begin) = rest.find("{{") {
        let (before, after) = (&rest[..begin], &rest[begin + 2..]);
        let left = after.strip_prefix("- ").or_else(|| after.strip_prefix("-\n"));
        let before = if trim { before.trim_start() } else { before };
        pieces.push(Piece::Text(if left.is_some() { before.trim_end() } else { before }.to_owned()));
        let after = left.unwrap_or(after);
        let end = action_end(after).ok_or("`{{` without `}}`")?;
        let action = &after[..end];
        let right = action.strip_suffix(" -");
        trim = right.is_some();
        let action = right.unwrap_or(action).trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(tokens(action)?));
        }
        rest = &after[end + 2..];
    }
    pieces.push(Piece::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

/// Where `}}` is, outside of quotes.
fn action_end(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let name = |from: usize| {
            let tail = &rest[from..];
            let end = tail.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tail.len());
            tail[..end].to_owned()
        };
        let (token, length) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '=' => (Token::Declare, 1),
            '"' | '`' => quoted(rest)?,
            '.' => (Token::Field(name(1)), 1 + name(1).len()),
            '$' => (Token::Variable(name(1)), 1 + name(1).len()),
            '-' | '0'..='9' => number(rest)?,
            c if c.is_alphabetic() || c == '_' => (word(name(0)), name(0).len()),
            c => return Err(format!("`{c}` in `{text}`")),
        };
        // A field right behind a name, a bracket or another field goes on with it; after a space it is a new value.
        let spaced = rest.len() < text.len() && text[..text.len() - rest.len()].ends_with(char::is_whitespace);
        if let (Token::Field(_), true) = (&token, spaced || tokens.is_empty()) {
            tokens.push(Token::Word(String::new()));
        }
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn word(name: String) -> Token {
    match name.as_str() {
        "true" => Token::Literal(json!(true)),
        "false" => Token::Literal(json!(false)),
        "nil" => Token::Literal(Value::Null),
        _ => Token::Word(name),
    }
}

fn quoted(text: &str) -> Result<(Token, usize), String> {
    let quote = text.chars().next().unwrap_or('"');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if quote == '"' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, 't')) => '\t',
                Some((_, other)) => other,
                None => return Err("a text without its closing quote".to_owned()),
            }),
            c if c == quote => return Ok((Token::Literal(json!(value)), at + 1)),
            c => value.push(c),
        }
    }
    Err("a text without its closing quote".to_owned())
}

fn number(text: &str) -> Result<(Token, usize), String> {
    let end = text[1..].find(|c: char| !c.is_ascii_digit() && c != '.').map_or(text.len(), |at| at + 1);
    let digits = &text[..end];
    let value = digits.parse::<i64>().map(Value::from).or_else(|_| digits.parse::<f64>().map(Value::from));
    Ok((Token::Literal(value.map_err(|_| format!("{digits:?} is not a number"))?), end))
}

struct Parser {
    pieces: Vec<Piece>,
    at: usize,
}

impl Parser {
    /// Nodes up to the end, or up to an `else` or `end` that is not theirs; that action's words follow.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<String>), String> {
        let mut nodes = Vec::new();
        while self.at < self.pieces.len() {
            let piece = std::mem::replace(&mut self.pieces[self.at], Piece::Text(String::new()));
            self.at += 1;
            match piece {
                Piece::Text(text) if text.is_empty() => {}
                Piece::Text(text) => nodes.push(Node::Text(text)),
                Piece::Action(tokens) => match keyword(&tokens) {
                    Some("end") => return Ok((nodes, Some("end".to_owned()))),
                    Some("else") => {
                        // `else if …` is an `else` with one `if` in it, which shares the `end`.
                        if tokens.len() > 1 {
                            self.at -= 1;
                            self.pieces[self.at] = Piece::Action(tokens[1..].to_vec());
                            return Ok((nodes, Some("else if".to_owned())));
                        }
                        return Ok((nodes, Some("else".to_owned())));
                    }
                    _ => nodes.push(self.action(&tokens)?),
                },
            }
        }
        Ok((nodes, None))
    }

    fn action(&mut self, tokens: &[Token]) -> Result<Node, String> {
        match (keyword(tokens), tokens) {
            (Some("if"), _) => {
                let condition = pipeline(&tokens[1..])?;
                let (then, otherwise) = self.branches("if")?;
                Ok(Node::If { condition, then, otherwise })
            }
            (Some("with"), _) => {
                let value = pipeline(&tokens[1..])?;
                let (then, otherwise) = self.branches("with")?;
                Ok(Node::With { value, then, otherwise })
            }
            (Some("range"), _) => {
                let (variables, over) = range(&tokens[1..])?;
                let (body, otherwise) = self.branches("range")?;
                Ok(Node::Range { variables, over, body, otherwise })
            }
            (Some(other), _) => Err(format!("`{other}` is not understood here")),
            (None, [Token::Variable(variable), Token::Declare, rest @ ..]) => {
                Ok(Node::Assign { variable: variable.clone(), value: pipeline(rest)? })
            }
            (None, _) => Ok(Node::Print(pipeline(tokens)?)),
        }
    }

    fn branches(&mut self, what: &str) -> Result<(Vec<Node>, Vec<Node>), String> {
        let missing = || format!("`{what}` without `end`");
        let (then, end) = self.nodes()?;
        match end.ok_or_else(missing)?.as_str() {
            "end" => Ok((then, Vec::new())),
            "else" => {
                let (otherwise, end) = self.nodes()?;
                if end.as_deref() == Some("end") { Ok((then, otherwise)) } else { Err(missing()) }
            }
            _ => {
                // The branch that follows takes the `end` of this one.
                let Piece::Action(tokens) = std::mem::replace(&mut self.pieces[self.at], Piece::Text(String::new()))
                else {
                    return Err(missing());
                };
                self.at += 1;
                Ok((then, vec![self.action(&tokens)?]))
            }
        }
    }
}

fn keyword(tokens: &[Token]) -> Option<&str> {
    match tokens.first() {
        Some(Token::Word(word)) => KEYWORDS.into_iter().find(|keyword| keyword == word),
        _ => None,
    }
}

fn range(tokens: &[Token]) -> Result<(Vec<String>, Pipeline), String> {
    match tokens {
        [Token::Variable(key), Token::Comma, Token::Variable(value), Token::Declare, rest @ ..] => {
            Ok((vec![key.clone(), value.clone()], pipeline(rest)?))
        }
        [Token::Variable(value), Token::Declare, rest @ ..] => Ok((vec![value.clone()], pipeline(rest)?)),
        _ => Ok((Vec::new(), pipeline(tokens)?)),
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, String> {
    let mut rest = tokens;
    let mut commands = vec![Vec::new()];
    while let Some(first) = rest.first() {
        if *first == Token::Pipe {
            commands.push(Vec::new());
            rest = &rest[1..];
            continue;
        }
        let (operand, length) = operand(rest)?;
        commands.last_mut().expect("there is always one").push(operand);
        rest = &rest[length..];
    }
    if commands.iter().any(Vec::is_empty) { Err("nothing between `{{`, `|` and `}}`".to_owned()) } else { Ok(commands) }
}

/// One operand and how many tokens it takes.
fn operand(tokens: &[Token]) -> Result<(Operand, usize), String> {
    let fields = |from: usize| -> Vec<String> {
        let names = tokens[from..].iter().map_while(|token| match token {
            Token::Field(name) => Some(name.clone()),
            _ => None,
        });
        names.collect()
    };
    let named = |names: &[String]| names.iter().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>();
    match &tokens[0] {
        Token::Literal(value) => Ok((Operand::Literal(value.clone()), 1)),
        // The mark before a field that begins a value.
        Token::Word(word) if word.is_empty() => {
            let path = fields(1);
            Ok((Operand::Field(named(&path)), 1 + path.len()))
        }
        Token::Word(word) => Ok((Operand::Function(word.clone()), 1)),
        Token::Variable(name) => {
            let path = fields(1);
            Ok((Operand::Variable(name.clone(), named(&path)), 1 + path.len()))
        }
        Token::Field(_) => {
            let path = fields(0);
            Ok((Operand::Field(named(&path)), path.len()))
        }
        Token::Open => {
            let end = closing(tokens).ok_or("`(` without `)`")?;
            let path = fields(end + 1);
            Ok((Operand::Group(pipeline(&tokens[1..end])?, named(&path)), end + 1 + path.len()))
        }
        other => Err(format!("{other:?} at this place")),
    }
}

fn closing(tokens: &[Token]) -> Option<usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => depth += 1,
            Token::Close if depth == 1 => return Some(at),
            Token::Close => depth -= 1,
            _ => {}
        }
    }
    None
}
