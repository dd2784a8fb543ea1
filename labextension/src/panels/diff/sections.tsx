import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import type {
  Change,
  ICellChange,
  IDifference,
  ISection,
  IVariable
} from '../../tokens';
import { bytes } from '../../words';
import { Lines } from './lines';

interface IProps {
  readonly difference: IDifference;
  readonly trans: TranslationBundle;
}

export function Sections({ difference, trans }: IProps): React.ReactElement {
  const { packages, files, variables, cells } = difference;
  const size = (count: number | null) => (count === null ? '' : bytes(count));
  const variable = (value: IVariable | null) =>
    value ? `${value.type} · ${bytes(value.size)}` : '';
  return (
    <div className="jp-VSandbox-diffSections">
      <Section title={trans.__('Packages')} section={packages} trans={trans}>
        <Table
          title={trans.__('Packages')}
          trans={trans}
          rows={packages.changes.map(each => ({
            ...each,
            old: each.old ?? '',
            new: each.new ?? ''
          }))}
        />
      </Section>
      <Section title={trans.__('Variables')} section={variables} trans={trans}>
        <Table
          title={trans.__('Variables')}
          trans={trans}
          rows={variables.changes.map(each => ({
            ...each,
            old: variable(each.old),
            new: variable(each.new)
          }))}
        />
      </Section>
      <Section title={trans.__('Files')} section={files} trans={trans}>
        <Table
          title={trans.__('Files')}
          trans={trans}
          rows={files.changes.map(each => ({
            change: each.change,
            name:
              each.files > 1
                ? trans.__('%1 (%2 files)', each.path, each.files)
                : each.path,
            old: size(each.old),
            new: size(each.new)
          }))}
        />
        {files.left_out > 0 ? (
          <p className="jp-VSandbox-facts">
            {trans._n('and %1 more file', 'and %1 more files', files.left_out)}
          </p>
        ) : null}
      </Section>
      <Section title={trans.__('Cells')} section={cells} trans={trans}>
        {cells.changes.map((each, index) => (
          <Cell key={index} cell={each} trans={trans} />
        ))}
      </Section>
    </div>
  );
}

function Section<T>(props: {
  readonly title: string;
  readonly section: ISection<T>;
  readonly trans: TranslationBundle;
  readonly children: React.ReactNode;
}): React.ReactElement {
  const { title, section, trans, children } = props;
  const { note, unknown, changes } = section;
  return (
    <section>
      <h2>
        {title} <span className="jp-VSandbox-count">{changes.length}</span>
      </h2>
      {note ? <p className="jp-VSandbox-facts">{note}</p> : null}
      {!note && changes.length === 0 ? (
        <p className="jp-VSandbox-facts">{trans.__('No differences.')}</p>
      ) : null}
      {changes.length > 0 ? children : null}
      {unknown.length > 0 ? (
        <p className="jp-VSandbox-facts">
          {trans.__('Not known whether these changed: %1', unknown.join(', '))}
        </p>
      ) : null}
    </section>
  );
}

function Table(props: {
  readonly title: string;
  readonly trans: TranslationBundle;
  readonly rows: readonly {
    readonly change: Change;
    readonly name: string;
    readonly old: string;
    readonly new: string;
  }[];
}): React.ReactElement {
  const { title, trans, rows } = props;
  return (
    <table aria-label={title}>
      <thead>
        <tr>
          <th scope="col">{trans.__('Change')}</th>
          <th scope="col">{trans.__('Name')}</th>
          <th scope="col">{trans.__('Before')}</th>
          <th scope="col">{trans.__('After')}</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ change, name, old, new: now }) => (
          <tr key={`${change} ${name}`} data-change={change}>
            <td>
              <ChangeName change={change} trans={trans} />
            </td>
            <th scope="row">{name}</th>
            <td>{old}</td>
            <td>{now}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Cell(props: {
  readonly cell: ICellChange;
  readonly trans: TranslationBundle;
}): React.ReactElement {
  const { cell, trans } = props;
  const number = cell.new_number ?? cell.old_number;
  return (
    <div className="jp-VSandbox-diffCell" data-change={cell.change}>
      <div className="jp-VSandbox-facts">
        <ChangeName change={cell.change} trans={trans} />{' '}
        {trans.__('Cell %1', number)}
        {cell.parts.length > 0 ? ` · ${cell.parts.join(', ')}` : ''}
      </div>
      <Lines before={cell.old ?? ''} after={cell.new ?? ''} />
    </div>
  );
}

function ChangeName(props: {
  readonly change: Change;
  readonly trans: TranslationBundle;
}): React.ReactElement {
  const { change, trans } = props;
  const words = {
    added: trans.__('added'),
    changed: trans.__('changed'),
    removed: trans.__('removed')
  };
  return (
    <span className="jp-VSandbox-change" data-change={change}>
      {words[change]}
    </span>
  );
}
