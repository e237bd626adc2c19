# Rewrites, for g++, what macros cannot; other lines pass as they are, and no line is added or lost.
#
#   __shared__ [__align__(A)] TYPE name[dims];            ->  TYPE (&name)[dims] = cudahost::shared_array<TYPE[dims]>(...);
#   extern __shared__ [__align__(A)] TYPE name[];         ->  TYPE* const name = cudahost::dynamic_shared_array<TYPE>(A);
#   __launch_bounds__(BOUNDS) ... {                       ->  ... { cudahost::check_launch_bounds(BOUNDS);
#
# -v path=PATH: what error messages, stack traces and the debugger call the file.
BEGIN { print "#line 1 \"" path "\"" }

/^[ \t]*(extern[ \t]+|static[ \t]+)?__shared__[ \t].*;/ {
    match($0, /^[ \t]*/)
    indent = substr($0, 1, RLENGTH)
    rest = substr($0, RLENGTH + 1)
    dynamic = sub(/^extern[ \t]+/, "", rest)
    sub(/^static[ \t]+/, "", rest)
    sub(/^__shared__[ \t]+/, "", rest)
    after = rest
    sub(/;.*/, "", rest)
    after = substr(after, length(rest) + 2)
    alignment = "1"
    if (match(rest, /^(__align__|alignas)[ \t]*\([^()]*\)[ \t]*/)) {
        alignment = substr(rest, 1, RLENGTH)
        rest = substr(rest, RLENGTH + 1)
        sub(/^[a-z_]*[ \t]*\(/, "", alignment)
        sub(/\)[ \t]*$/, "", alignment)
    }
    # dims: from the first [ on, unless it belongs to a template argument, which has none here
    bracket = index(rest, "[")
    head = bracket ? substr(rest, 1, bracket - 1) : rest
    dims = bracket ? substr(rest, bracket) : ""
    sub(/[ \t]+$/, "", head)
    match(head, /[A-Za-z_][A-Za-z_0-9]*$/)
    name = substr(head, RSTART)
    type = substr(head, 1, RSTART - 1)
    sub(/[ \t]+$/, "", type)
    if (type == "" || name == "" || (dynamic && dims != "[]") || (!dynamic && dims == "[]")) { print; next }
    if (dynamic)
        print indent type "* const " name " = cudahost::dynamic_shared_array<" type ">(" alignment ");" after
    else
        print indent "std::type_identity_t<" type dims ">& " name " = cudahost::shared_array<" type dims ">([] {}, " alignment \
            ", \"" name "\");" after
    next
}

# what stands between the parentheses after __launch_bounds__, which may contain others
/^[^\/]*__launch_bounds__[ \t]*\(/ {
    match($0, /__launch_bounds__[ \t]*\(/)
    from = RSTART + RLENGTH
    depth = 1
    for (i = from; i <= length($0) && depth > 0; i++) {
        c = substr($0, i, 1)
        depth += (c == "(") - (c == ")")
    }
    if (depth == 0) {
        bounds = substr($0, from, i - 1 - from)
        print_with_bounds(substr($0, 1, i - 1), substr($0, i))
        next
    }
}
bounds != "" { print_with_bounds("", $0); next }
{ print }

function print_with_bounds(before, line,    brace) {
    brace = index(line, "{")
    if (brace) {
        line = substr(line, 1, brace) " cudahost::check_launch_bounds(" bounds ");" substr(line, brace + 1)
        bounds = ""
    } else if (index(line, ";")) {
        bounds = ""  # a declaration
    }
    print before line
}
