/* Of one type: included by elements.cu. */

GLOBAL(TYPED(fill), 256, ElementArguments)
{
    EACH(i, a.n)
    STORE(a.y, i, a.alpha);
}

GLOBAL(TYPED(scale), 256, ElementArguments)
{
    EACH(i, a.n)
    STORE(a.y, i, a.alpha * LOAD(a.a, i) + (a.beta != 0 ? a.beta * LOAD(a.y, i) : 0.0f));
}
