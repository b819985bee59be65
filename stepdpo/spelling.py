r"""How answers are spelled: a text in one spelling, and its tokens.

    text           $\dfrac{1}{2}·x^{\circ}$ ,\; 5\text{ cm}²
    one_spelling   \dfrac{1}{2}·x^{\circ} ,   5  "cm" ^{2}
    tokenize       \frac { 1 } { 2 } * x "deg" , 5 "cm" ^ { 2 }

Most of it is the dictionary SPELLINGS: · and \cdot and \times are one sign, *. A few things are no matter of single
signs; they are rewritten in the text (REWRITES), each with an example beside it.
"""
import re
import unicodedata

MAX_CHARS = 1000  # a longer answer is compared as text

SPELLINGS = {  # our sign: how else it is written
    "*": r"\cdot \times \ast · ⋅ ∙ × ∗", "/": r"\div ÷ ⁄ per", "+": "plus", "-": "minus negative", "^": "**",
    "!": "factorial", "^ 2": "squared", "^ 3": "cubed",
    "12e0": "dozen", "1e2": "hundred", "1e3": "thousand", "1e6": "million", "1e9": "billion", "1e12": "trillion",
    "=": r"== := \equiv", "!=": r"\ne \neq ≠", "<": r"\lt", ">": r"\gt",
    "<=": r"\le \leq \leqslant =< ≤ ⩽", ">=": r"\ge \geq \geqslant ≥ ⩾", r"\in": "∈", r"\approx": r"\simeq",
    ",": r"; and or \lor \vee \land \wedge \quad \qquad \&", r"\cup": "∪", r"\setminus": r"\backslash except",
    "where": r"for whenever with \forall", '"all"': "all any every each some",
    "(": r"\langle ⟨", ")": r"\rangle ⟩", r"\{": r"\lbrace", r"\}": r"\rbrace", "'": r"\prime",
    r"\emptyset": r"\varnothing ∅", r"\infty": "inf infinity oo ∞", "i": r'\imath "i"', "e": '"e"', r"\pi": "pi π",
    r"\phi": r"\varphi phi φ ϕ", r"\epsilon": r"\varepsilon", r"\frac": r"\dfrac \tfrac \cfrac",
    r"\sqrt": "sqrt √", r"\abs": "abs", r"\arcsin": "asin", r"\arccos": "acos", r"\arctan": "atan",
    r"\ln": r"\log log"}
UNITS = {  # and other words; in a tree they stand in quotes
    "percent": r"% \% percent percentage pct", "deg": r"\circ \degree deg degree",
    "dollar": r"\$ $ dollar usd", "cent": "cent", "euro": r"€ \euro euro", "pound": r"£ \pounds pound",
    "rupee": "₹ rupee rs", "yen": "¥ yen", "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre",
    "km": "km kilometer kilometre", "m": "meter metre", "inch": "inch inches in", "foot": "foot feet ft",
    "yd": "yd yard", "mi": "mi mile", "kg": "kg kilogram", "g": "gram", "mg": "mg milligram", "lb": "lb lbs",
    "oz": "oz ounce", "l": '"L" liter litre', "ml": "ml milliliter millilitre", "s": "sec second",
    "min": "min mins minute", "h": "hr hrs hour", "n": '"N" newton', "j": '"J" joule', "w": '"W" watt',
    "v": '"V" volt', "c": '"C" celsius', "f": '"F" fahrenheit', "am": "am", "pm": "pm", "th": "st nd rd th",
    "square": "sq", "cubic": "cu"}
SPELLINGS |= {f'"{unit}"': spellings for unit, spellings in UNITS.items()}
GREEK = r"""\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \omicron \pi \rho
    \varsigma \sigma \tau \upsilon \phi \chi \psi \omega""".split()
FUNCTIONS = r"\sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \sinh \cosh \tanh \ln \lg \exp".split()
BASES = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten",
         12: "twelve", 16: "sixteen"}
SIGNS = {spelling: sign for sign, spellings in SPELLINGS.items() for spelling in [sign, *spellings.split()]}
SIGNS |= {name[1:]: name for name in FUNCTIONS + GREEK if name in FUNCTIONS or len(name) > 5}  # sin, theta; not mu
SIGNS |= {chr(ord("α") + place): name for place, name in enumerate(GREEK)}
SIGNS |= {chr(ord("Α") + place): name.title() for place, name in enumerate(GREEK)}
SIGNS |= {f"_{word}": f"_{base}" for base, word in BASES.items()}

CHARACTERS = str.maketrans({
    **dict.fromkeys("−–—‒", "-"), **dict.fromkeys("∣‖", "|"), **dict.fromkeys("“”\"", ""), "’": "'", "~": " ",
    "\f": r"\f", "∛": r"\sqrt[3]", "≈": r"\approx ", "°": r"\circ ", "±": r"\pm ", "∓": r"\mp "})

LAYOUT = r"""(?x) \\left\s*\\\{\s*(?=\\begin) | (?<!\\)\\(?: [()\[\],;:!\ ] | (?:hspace|phantom)\s*\{[^{}]*\}
    | (?:begin|end)\s*\{(?!(?:[pbB]?(?:small)?matrix|array|cases|aligned)\})[^{}]*\}
    | (?:left|right|[bB]igg?[lr]?|displaystyle|noindent|rm|bf|f?box(?:ed)?|boldsymbol|vec|math(?:bb|bf|it|cal|sf|tt))
      (?![a-zA-Z])\.? ) | \bMatrix(?=\() | &(?=\s*(?:[=<>]|\\[lg]eq?\b)) | (?<=[a-z])\.(?!\w)"""
UNIT = r"""(?x) (?:(?<=[\d}])\s | (?<=circ)) \s*
    ( [mgshLKCFNJWV] | [a-z]{1,3}/[a-z]+ | (?!(?:pi|and|or|for|where)\b|sqrt|sin|cos|tan|log|ln)[a-z]{2}[a-z ]*+)
    (?=\s*(?:\^\s*\{?\s*[23]\s*\}?\s*)?$)"""


def repeating(match):
    r"""\frac{15}{90} for 0.1\overline{6}."""
    whole, fixed, period = match.groups()
    top, bottom = int(whole + fixed + period) - int(whole + fixed), 10 ** len(fixed) * (10 ** len(period) - 1)
    return rf"\frac{{{top}}}{{{bottom}}}"


REWRITES = [(re.compile(pattern), new) for pattern, new in [  # in this order
    (r"(?<=\d)(?:\s*\{\s*,\s*\}|,?\s*\\!|\\,|\\[;: ](?=\d{3}\b))\s*(?=\d)", ""),  # 10{,}000  10,\!000  10\,000
    (r"\\mathbb\s*\{?R\}?\s*-\s*(?=\\\{)", r"\\mathbb{R}\\setminus "),  # \mathbb{R} - \{2\}
    (r"\b(\d+)\.(\d*)\\(?:overline|bar)\s*\{(\d{1,30})\}", repeating),  # 0.\overline{3}
    (LAYOUT, " "),  # \left( \, \displaystyle
    (r"(?i)^(?:\\text\s*\{)?no (?:real )?solutions?\W*$", r"\\emptyset"),
    (r"(?i)^(?:the set of )?(?:all )?real numbers\b", r"(-\\infty,\\infty)"),
    (r"(?:\\|(?<![\w}^_]))\{([^|:]{1,60}?)(?:\||:|\\mid\b)(?=.*(?:[<>=≤≥≠]|\\(?:[lg]eq?|neq?|in)\b))",
     r"\\{\1\\mid "),  # \{x : x > 2\}, where the colon divides nothing
    (r"(?:\\?\||\\[lr]?vert\b)([^|]+?)(?:\\?\||\\[lr]?vert\b)", r" \\abs{\1}"),  # |x|
    (UNIT, r"\\text{\1}"),  # 5 m, 60 km/h, 12 men at the end; but 5m is a product
    (r"\\(?:text(?:bf|it|rm|normal)?|mbox|mathrm|operatorname|hbox|emph)\s*\{([^{}]*)\}",
     lambda m: re.sub(r"[A-Za-z]+", r' "\g<0>" ', m[1])),  # \text{5 cm} is 5 "cm"
    (r'\(\s*\\?[pb]?"?mod(?:ulo)?\b"?([^()]*)\)', r" for modulus = \1"),  # 6 (mod 7)
    (r"\\pmod(?![a-z])", " for modulus = "),  # 6 \pmod{7}
    (r"(?<!\\)\$(?!\s*\.?\d[^$]*$)", " "),  # around a formula; but a dollar sign without a partner is a currency
    (r"(?<=\d)\s*[xX]\s*(?=10\s*\^)|(?<=\d) x (?=\d)", "*"),  # 3 x 10^8
    (r"(?i)^[\s\"]*(?:\\approx|\\sim|about|approximately|roughly|exactly|only|option|choice|answer|both|either)\b"
     r"[\s\"]*:?", ""),  # about 42
    (r"(?<=\S)\s*[(\[]\s*(\w\s*(?:[∈<>≤≥≠]|\\(?:in|[lg]eq?|neq?)(?![a-z]))[^()]*)[)\]]\s*$",
     r", \1"),  # (n \ge 1) at the end
]]

# without the spaces, markdown, math delimiters, line breaks and full stops around it; this takes linear time
CONTENT = re.compile(r"(?s)(?:[ \t\r\n*_`:,;]|\\[(\[]|\\\\ )*+((?:.*(?:[^\s*_`.,;:\\)\]]|(?<!\\)[)\]]))?)")


def one_spelling(text):
    """A text without layout, in few signs, with the words of \\text{} in quotes."""
    text = re.sub(r"[¼-¾⅐-⅞]", r" \g<0>", text)  # 1½ is not 11/2
    text = re.sub(r"(?<=\d)\s*([ckm]?m)([²³])", r"\\text{\1}\2", text)  # 12m² is an area, 12m^2 may be a product
    text = re.sub(r"[₀-₉]+", r"_{\g<0>}", re.sub(r"[⁰¹²³⁴-⁹⁺⁻ⁿ]+", r"^{\g<0>}", text))
    text = " ".join(unicodedata.normalize("NFKC", text).translate(CHARACTERS).split())
    if len(text) > MAX_CHARS:
        return text
    if r"\begin" not in text or r"\\begin" in text:  # escaped twice: no rows end in \\ here
        text = re.sub(r"\\\\(?=[a-zA-Z(\[{}%$\\])", r"\\", text)
    for pattern, new in REWRITES:
        text = pattern.sub(new, text)
    return CONTENT.match(text)[1]


MIXED = r"""(?<![\w.^]) (\d++) (?: (?:\s|\\[,;:!\ ])++ (\d++)\ ?/\ ?(\d+) | \s*+(\d++)⁄(\d+)
    | \s*\\[dtc]?frac \s*(?:\{(\d+)\}|(\d)) \s*(?:\{(\d+)\}|(\d)) )"""  # 1 3/4, 1 3⁄4 and 1\frac34, but not x^1\frac34
TOKEN = re.compile(rf"""\s*(?: (?P<mixed>{MIXED})
    | (?P<number> (?:\d++⁄\d+
        | (?<![\d.,(\[_])(?<!\d\ )\d{{1,3}}(?:(?:,\d{{3}})+|(?:\ \d{{3}})+)(?![\d,)\]]|\ ?/|\ \d)(?:\.\d*)?
        | \d+(?:\.\d*)? | \.\d+) (?:[eE][+-]?\d{{1,3}}(?!\d))?)      # 1,000 is one number, (1,100) are two
    | (?P<subscript> _\s*(?:\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}} | \d+ | "[^"]*" | \\[a-zA-Z]+ | \S))
    | (?P<raised> \^\s*\{{?\s*\\(?:circ|prime)\b\s*\}}?)             # 90^{{\circ}} has a sign of degree, no exponent
    | (?P<begin> \\begin\s*\{{(?:array\}}\s*\{{[^{{}}]*\}}|[a-zA-Z]+\}})) | (?P<end> \\end\s*\{{[a-zA-Z]+\}})
    | (?P<row> \\\\(?:\s*\[[\d.]*\ ?[a-z]+\])?)
    | (?P<word> "[^"]*" | [^\W\d_]+)
    | (?P<sign> \\quad | \\[a-zA-Z]+ | \\. | \*\* | [<>=!:]= | =< | \S) )""", re.X)
END = " end"  # lies under the last token


def tokenize(text):
    """The tokens of a text, last one first, so that pop() takes the next one and tokens[-1] shows it."""
    tokens = []
    for match in TOKEN.finditer(text):
        kind, token = match.lastgroup, match[0].strip()
        if kind == "word":
            tokens += word_tokens(token)
        elif kind == "subscript":
            token = "_" + re.sub(r'^_\s*\{(.*)\}$|[_"\s]', r"\1", token).strip('" ')
            tokens.append(SIGNS.get(token, token))
        elif kind == "raised":
            tokens.append('"deg"' if "circ" in token else "'")
        elif kind in ("begin", "end", "row"):
            tokens.append({"begin": r"\begin", "end": r"\end", "row": r"\\"}[kind])
        else:
            tokens.append(SIGNS.get(token, token))
    return [END, *tokens[::-1]]


def word_tokens(token):
    """['"apple"'] for apples, ["^", "2"] for squared, ["x", "y"] for xy: a short word is a product of letters."""
    word = token.strip('"')
    lower = word.lower() if len(token) > 1 else word
    stem = lower.rstrip("s") if len(lower) > 3 else lower
    sign = SIGNS.get(token) or SIGNS.get(lower) or SIGNS.get(stem)
    if sign:
        return sign.split()
    if len(word) > 1 and len(token) > (2 if token.istitle() else 3):
        return [f'"{stem}"']
    return [SIGNS.get(letter, letter) for letter in word]
